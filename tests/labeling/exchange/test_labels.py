from __future__ import annotations

import json
from pathlib import Path

from sqlalchemy import Connection, insert
from tests.labeling.labeling import add_person, add_ranking_tasks, answer_for, rank_answer

from heedful.conversation import turns_of
from heedful.labeling.database.connection import Database
from heedful.labeling.database.tables import instruction
from heedful.labeling.exchange import labels
from heedful.labeling.queue import items, leases
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
    assert {(r.labeler, r.metadata["task"]) for r in records.rankings.values()} == {
        ("labeler-1", "ranking"),
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
