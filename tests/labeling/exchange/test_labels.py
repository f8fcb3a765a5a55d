from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert, update
from tests.labeling.labeling import add_person, add_ranking_tasks, answer_for, rank_answer

from heedful.conversation import Turn, turns_of
from heedful.errors import DataError
from heedful.labeling.database.connection import Database
from heedful.labeling.database.tables import instruction, person
from heedful.labeling.exchange import labels
from heedful.labeling.queue import items, leases
from heedful.labeling.queue.kinds import KINDS, WITH_OUTPUTS, WITHOUT_PROMPT, Phase, TaskKind, TaskView, check_answer
from heedful.project.data_folder import Records, record_to_json
from heedful.project.files import write_jsonl
from heedful.project.importing import import_file
from heedful.project.project import init_project
from heedful.records import Prompt, Response


def answer_all(connection: Connection, who: int, *, now: float = 0.0) -> int:
    number = 0
    while (view := leases.claim(connection, who, now=now)) is not None:
        leases.submit(connection, view.id, who, token=view.token, answer=answer_for(view), seconds_spent=7.5, now=now)
        number += 1
    return number


def test_export_goes_into_a_project_and_again_adds_nothing(database: Database, tmp_path: Path) -> None:
    project = init_project(tmp_path / "mine", base_model="model")
    with database.write() as connection:
        values = {"kind": "rank", "phase": "training", "version": 2, "markdown": "x", "change_note": "", "created": 0.0}
        connection.execute(insert(instruction).values(**values))
        ann, hal = add_person(connection, "labeler-1"), add_person(connection, "labeler-2", group="held_out")
        can = add_person(connection, "labeler-3", group="candidate")
        add_ranking_tasks(connection, 2, name="train")
        add_ranking_tasks(connection, 1, name="eval", phase="evaluation")
        add_ranking_tasks(connection, 1, name="screen", phase="screening")
        add_ranking_tasks(connection, 1, name="write", kind="demonstrate")
        assert [answer_all(connection, who) for who in (ann, hal, can)] == [3, 1, 1]
    file = tmp_path / "labels.jsonl"
    for _ in range(2):
        with database.read() as connection:
            write_jsonl(file, labels.exported_records(connection))
        report = import_file("heedful", file, project.data)
        assert report.rejected == 0, report.summary()
    assert sum(report.added.values()) == 0
    records = Records.load(project.data)
    assert {(r.labeler, r.phase) for r in records.rankings.values()} == {
        ("labeler-1", "training"),
        ("labeler-2", "evaluation"),
    }
    assert len(records.rankings) == 3
    assert len(records.ratings) == 12
    one = next(r for r in records.rankings.values() if r.prompt_id == "train-0")
    assert (one.response_ids, one.ranks) == (("train-0-a", "train-0-b", "train-0-c", "train-0-d"), (1, 2, 2, 3))
    wanted = {"instruction_version": 2, "seconds_spent": 7.5, "simulated": False, "late": False, "group": "training"}
    assert wanted.items() <= one.metadata.items()
    [written] = records.demonstrations.values()
    assert written.text == " My answer to 5"  # continues a prompt that ends without a space
    assert "screen-0" not in records.prompts


def test_late_is_marked_and_surplus_only_where_asked(database: Database) -> None:
    with database.write() as connection:
        ann, bob, eve = (add_person(connection, name) for name in ("ann", "bob", "eve"))
        add_ranking_tasks(connection, 1)
        lost = [leases.claim(connection, ann, now=0.0), leases.claim(connection, bob, now=101.0)]
        leases.give_back_expired(connection, now=202.0)
        for who, view, now in zip((ann, bob), lost, (203.0, 204.0), strict=True):
            assert view is not None
            answer = rank_answer([output.id for output in view.outputs])
            leases.submit(connection, view.id, who, token=view.token, answer=answer, seconds_spent=None, now=now)
        assert leases.claim(connection, eve, now=205.0) is None
        found = [(r.labeler, r.metadata["late"], r.metadata.get("surplus")) for r in labels.stored_rankings(connection)]
        assert found == [("ann", True, None)]
        found = [(r.labeler, r.metadata.get("surplus")) for r in labels.stored_rankings(connection, surplus=True)]
        assert found == [("ann", None), ("bob", True)]
        assert len(list(labels.stored_ratings(connection))) == 4


def test_project_goes_in_once(database: Database, tmp_path: Path) -> None:
    project = init_project(tmp_path / "mine", base_model="model")
    prompts = [Prompt(id=f"p{n}", turns=turns_of(f"Prompt {n}")) for n in range(4)]
    responses = [Response(id=f"p{n}-{k}", prompt_id=f"p{n}", text=f"r{k}") for n in range(4) for k in range(4)]
    write_jsonl(project.data / "prompts.jsonl", map(record_to_json, prompts))
    write_jsonl(project.data / "responses.jsonl", map(record_to_json, responses))
    demonstrated = {"id": "d", "prompt_id": "p0", "text": "x", "labeler": "somebody"}
    write_jsonl(project.data / "demonstrations.jsonl", [demonstrated])
    rows = [{"prompt_id": p, "response_ids": [f"{p}-{k}" for k in range(4)]} for p in ("p1", "p2")]
    write_jsonl(project.tasks / "ranking.jsonl", rows)
    write_jsonl(project.tasks / "evaluation.jsonl", rows[:1])
    for expected in ((4, 16, [2, 1, 2]), (0, 0, [0, 0, 1])):
        with database.write() as connection:
            done = labels.import_project(connection, project, demonstrations=2)
        assert (done.prompts, done.responses, list(done.tasks.values())) == expected
    with database.write() as connection:
        ann = add_person(connection, "ann")
        assert answer_all(connection, ann) == 2 + 3


def test_few_shot_prompts(database: Database, tmp_path: Path) -> None:
    """From K pairs K training examples, each with the other K-1 as context (SPEC 1.1)."""
    project = init_project(tmp_path / "mine", base_model="model")
    with database.write() as connection:
        ann = add_person(connection, "labeler-1")
        batch_id = items.make_batch(connection, name="write", kind="write_prompt", phase="training")
        items.add_tasks(connection, batch_id, [items.NewTask(payload={"style": style}) for style in ("few_shot", "plain")])
        assert answer_all(connection, ann) == 2
        write_jsonl(tmp_path / "labels.jsonl", labels.exported_records(connection))
    assert import_file("heedful", tmp_path / "labels.jsonl", project.data).rejected == 0
    records = Records.load(project.data)
    assert len(records.prompts) == 4
    assert len({prompt.split for prompt in records.prompts.values()}) == 1  # one owner, one split
    expected = {
        ("Translate.\n\nQuery: q1\nResponse: r1\n\nQuery: q2\nResponse: r2\n\nQuery: q0\nResponse:", " r0"),
        ("Translate.\n\nQuery: q0\nResponse: r0\n\nQuery: q2\nResponse: r2\n\nQuery: q1\nResponse:", " r1"),
        ("Translate.\n\nQuery: q0\nResponse: r0\n\nQuery: q1\nResponse: r1\n\nQuery: q2\nResponse:", " r2"),
    }
    assert {(records.prompts[d.prompt_id].text, d.text) for d in records.demonstrations.values()} == expected
    assert json.dumps(sorted(p.user or "" for p in records.prompts.values())) == json.dumps(["labeler-1"] * 4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_answer_comes_out_and_goes_into_a_project(kind: TaskKind, database: Database, tmp_path: Path) -> None:
    """A new kind without an export fails here."""
    project = init_project(tmp_path / "mine", base_model="model")
    # Scoring and self-assessment exist in screening only; the researcher scores, the candidate tells topics.
    phase: Phase = "screening" if kind in ("score_demonstration", "self_assess") else "training"
    payload = {"topics": ["religion", "politics"]} if kind == "self_assess" else {"text": "Box Hill."}
    with database.write() as connection:
        who = add_person(
            connection,
            "labeler-1",
            role="researcher" if kind == "score_demonstration" else "labeler",
            group="candidate" if kind == "self_assess" else "training",
        )
        add_ranking_tasks(connection, 1, name="other")  # a second ranking: the import has a row that it can use
        if kind in WITH_OUTPUTS:
            add_ranking_tasks(connection, 1, kind=kind, name="this")
        else:
            batch_id = items.make_batch(connection, name="this", kind=kind, phase=phase)
            items.add_prompts(connection, [Prompt(id="this-0", turns=turns_of("Name a hill."))])
            about = None if kind in WITHOUT_PROMPT else "this-0"
            items.add_tasks(connection, batch_id, [items.NewTask(prompt_id=about, payload=payload)])
        view = leases.claim(connection, who, kind=kind, now=0.0)
        assert view is not None
        answer = answer_for(view)
        leases.submit(connection, view.id, who, token=view.token, answer=answer, seconds_spent=7.5, now=1.0)
        rows = list(labels.exported_records(connection, screening=phase == "screening"))
    given = [row for row in rows if row["kind"] not in ("prompt", "response") or row.get("source") == "labeler"]
    assert said_by(given) == answer
    assert all(row.get("labeler", row.get("user")) == "labeler-1" or phase == "screening" for row in given)
    write_jsonl(tmp_path / "labels.jsonl", [{"kind": "prompt", "id": "more", "text": "More."}, *rows])
    report = import_file("heedful", tmp_path / "labels.jsonl", project.data)
    assert report.rejected == 0
    annotations = [row for row in rows if row["kind"] == "annotation"]
    counted = {f"answers of the kind {kind}: they stay in the file, no record holds them": 1} if annotations else {}
    assert report.skipped == counted


def said_by(rows: list[dict[str, Any]]) -> object:
    """The answer that exported rows tell, put together again."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_kind.setdefault(row["kind"], []).append(row)
    match by_kind:
        case {"annotation": [row], **others} if not others:
            return row["answer"]
        case {"prompt": [row], **others} if not others:
            return {"text": row["text"].removesuffix("\n"), "use_case": row["use_case"]}
        case {"demonstration": [row], **others} if not others:
            return {"text": row["text"].strip()}
        case {"rating": ratings}:
            answer: dict[str, Any] = {
                "ratings": {row["response_id"]: {"overall": row["overall"], "flags": row["flags"]} for row in ratings}
            }
            for row in by_kind.get("ranking", []):
                pairs = list(zip(row["response_ids"], row["ranks"], strict=True))
                answer["groups"] = [[id for id, rank in pairs if rank == each] for each in sorted(set(row["ranks"]))]
            return answer
    return rows


def test_screening_comes_out_only_on_request_and_under_codes(database: Database) -> None:
    with database.write() as connection:
        can = add_person(connection, "labeler-3", group="candidate")
        res = add_person(connection, "labeler-4", role="researcher")
        add_ranking_tasks(connection, 1, name="screen", phase="screening", wanted=2)
        assert [answer_all(connection, who) for who in (can, res)] == [1, 1]
        connection.execute(update(person).where(person.c.id == can).values(group_name="training"))
        assert list(labels.exported_records(connection)) == []
        rows = list(labels.exported_records(connection, screening=True))
    rankings = [row for row in rows if row["kind"] == "ranking"]
    assert [(row["phase"], row["metadata"]["group"]) for row in rankings] == [
        ("screening", "candidate"),
        ("screening", "researcher"),
    ]
    codes = {row["metadata"]["group"]: row["labeler"] for row in rankings}
    assert len(set(codes.values())) == 2
    assert {row["labeler"] for row in rows if row["kind"] == "rating"} == set(codes.values())
    assert "labeler-" not in json.dumps(rows)


def test_what_is_for_evaluation_is_marked(database: Database, tmp_path: Path) -> None:
    """Demonstrations and written prompts, too: they reach no training loop."""
    project = init_project(tmp_path / "mine", base_model="model")
    with database.write() as connection:
        hal = add_person(connection, "labeler-2", group="held_out")
        add_ranking_tasks(connection, 1, name="show", kind="demonstrate", phase="evaluation")
        batch_id = items.make_batch(connection, name="write", kind="write_prompt", phase="evaluation")
        items.add_tasks(connection, batch_id, [items.NewTask()])
        assert answer_all(connection, hal) == 2
        write_jsonl(tmp_path / "labels.jsonl", labels.exported_records(connection))
    import_file("heedful", tmp_path / "labels.jsonl", project.data)
    records = Records.load(project.data)
    assert [d.phase for d in records.demonstrations.values()] == ["evaluation"]
    assert [p.split for p in records.prompts.values() if p.source == "labeler"] == ["test"]


def test_a_written_prompt_may_be_a_conversation(database: Database, tmp_path: Path) -> None:
    """And text keeps its indentation."""
    project = init_project(tmp_path / "mine", base_model="model")
    turns = [
        {"role": "system", "text": "Answer briefly."},
        {"role": "user", "text": "Name a hill."},
        {"role": "assistant", "text": "Box Hill."},
        {"role": "user", "text": "    Another one?"},
    ]
    answers = [{"turns": turns, "use_case": "chat"}, {"text": "\n    return x\nWhat is x?  \n", "use_case": "open_qa"}]
    with database.write() as connection:
        ann = add_person(connection, "labeler-1")
        batch_id = items.make_batch(connection, name="write", kind="write_prompt", phase="training")
        items.add_tasks(connection, batch_id, [items.NewTask(), items.NewTask()])
        for answer in answers:
            view = leases.claim(connection, ann)
            assert view is not None
            leases.submit(connection, view.id, ann, token=view.token, answer=answer, seconds_spent=None)
        write_jsonl(tmp_path / "labels.jsonl", labels.exported_records(connection))
    import_file("heedful", tmp_path / "labels.jsonl", project.data)
    talk, code = Records.load(project.data).prompts.values()
    assert talk.turns == tuple(Turn(turn["role"], turn["text"]) for turn in turns)  # type: ignore[arg-type]
    assert code.text == "    return x\nWhat is x?\n"


@pytest.mark.parametrize(
    ("turns", "where"),
    [
        ([], "a list of turns"),
        ([{"role": "assistant", "text": "Hi."}], "a user's turn at the end"),
        ([{"role": "user", "text": "Hi."}, {"role": "system", "text": "x"}], "turns, number 2: role"),
        ([{"role": "user", "text": " "}], "turns, number 1: text"),
        ([{"role": "user", "text": "Hi.", "name": "x"}], "also name"),
    ],
)
def test_broken_conversations_are_refused(turns: object, where: str) -> None:
    with pytest.raises(DataError, match=where):
        check_answer("write_prompt", TaskView(), {"turns": turns, "use_case": "chat"})


def test_the_stored_turns_say_how_a_demonstration_goes_on(database: Database) -> None:
    """A lone text that looks like a conversation is a lone text: the demonstration starts with a space, not in a new turn."""
    text = "Human: Hello\n\nAssistant: Hi\n\nHuman: More\n\nAssistant:"
    with database.write() as connection:
        ann = add_person(connection, "ann")
        items.add_prompts(connection, [Prompt(id="lone", turns=(Turn("user", text),)), Prompt(id="talk", turns=turns_of(text))])
        batch_id = items.make_batch(connection, name="write", kind="demonstrate", phase="training")
        items.add_tasks(connection, batch_id, [items.NewTask(prompt_id=id) for id in ("lone", "talk")])
        assert answer_all(connection, ann) == 2
        texts = {one.prompt_id: one.text for one in labels.stored_demonstrations(connection)}
    assert texts["lone"].startswith(" My answer")
    assert texts["talk"].startswith("My answer")


def test_what_labelers_write_keeps_its_indentation() -> None:
    answer = {
        "instruction": "\n  Indent:\n    twice\n",
        "pairs": [{"query": "  a\n    b ", "response": "  c\n    d\n"}, {"query": "  e\n    f", "response": "  g\n    h"}],
        "use_case": "other",
    }
    written = list(labels.written_prompt_rows("x", answer, "ann", "training", {}))
    shown = "  Indent:\n    twice\n\nQuery:   e\n    f\nResponse:   g\n    h\n\nQuery:   a\n    b\nResponse:"
    assert written[0]["text"] == shown
    assert written[1]["text"] == "  c\n    d"
    [plain] = labels.written_prompt_rows("x", {"text": "\n  def f():\n    x\n\n", "use_case": None}, "ann", "training", {})
    assert plain["text"] == "  def f():\n    x\n"
