"""Forgetting: no trace of the owner's text is left in the data folder; others keep theirs; it does not come back."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.prompts.submissions import project as new_project
from tests.prompts.submissions import prompts, put, rejected, take_in

from heedful.errors import DataError, MissingError
from heedful.project.data_folder import Records
from heedful.project.importing import import_file
from heedful.project.owners import Forgotten
from heedful.project.project import Project
from heedful.prompts import erasing_project, intake
from heedful.prompts.forgetting import forget_owner
from heedful.records import Demonstration, Ranking, Rating, Response

PRIVATE = [
    "Rewrite my letter of resignation to the lighthouse board, so that it is kind.",
    'Which "herbs" grow in the dark cellar under the mill? Grüße <from the miller>.',
    "Plan a week in the mountains for five slow walkers.",
]


@pytest.fixture(autouse=True)
def quick_language(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "language_of_turns", lambda turns: "en")


def filled(folder: Path) -> Project:
    """A project in which ada and bob have prompts, and all their prompts have every kind of label."""
    project = new_project(folder)
    rows = [{"prompt": text, "owner": "ada-0815", "consent": True} for text in PRIVATE]
    rows += [{"prompt": text, "owner": "bob"} for text in prompts(3)]
    rows.append({"prompt": PRIVATE[0] + " \n", "owner": "ada-0815"})  # a duplicate: it stands in rejected.jsonl
    _, records = take_in(folder, rows, max_per_owner=3)
    for number, prompt in enumerate(list(records.prompts.values())):
        responses = [Response(id=f"r{number}{k}", prompt_id=prompt.id, text=f" Answer {k} to {prompt.text}") for k in range(2)]
        records.responses.update({response.id: response for response in responses})
        records.demonstrations[f"d{number}"] = Demonstration(
            id=f"d{number}", prompt_id=prompt.id, text=f"Shown: {prompt.text}", labeler="kim"
        )
        ids = tuple(response.id for response in responses)
        records.rankings[f"k{number}"] = Ranking(
            id=f"k{number}", prompt_id=prompt.id, response_ids=ids, ranks=(1, 2), labeler="kim"
        )
        records.ratings[f"t{number}"] = Rating(
            id=f"t{number}", prompt_id=prompt.id, response_id=ids[0], labeler="kim", overall=5
        )
    records.save(project.data)
    # A row that another import refused, and what a killed writer left.
    refused = [{"role": "user", "content": PRIVATE[1]}, {"role": "nobody", "content": "x"}]
    fine = [{"role": "user", "content": "Name a tree."}]
    put(folder / "broken.jsonl", [{"messages": refused}, {"messages": fine}])
    import_file("messages", folder / "broken.jsonl", project.data)
    assert "Grüße" in (project.data / "rejected.jsonl").read_text(encoding="utf-8")
    (project.data / ".prompts.jsonl.0a1b.tmp").write_text(PRIVATE[2])
    prompt_ids = {prompt.text: prompt.id for prompt in records.prompts.values()}
    tasks = [{"kind": "ranking", "prompt_id": prompt_ids[text + "\n"], "prompt": text} for text in (PRIVATE[0], prompts(1)[0])]
    put(project.tasks / "ranking.jsonl", tasks)
    for name in ("rows.jsonl", "broken.jsonl"):  # what was imported is not the project's
        (folder / name).unlink()
    return project


def traces(project: Project, owner: str = "ada-0815") -> list[str]:
    """Files of data/ and tasks/ that hold the owner's id or a part of the texts, in any spelling."""
    parts = ["letter of resignation", "in the dark cellar", "five slow walkers", owner]
    parts += [json.dumps(part)[1:-1] for part in parts]
    files = [path for folder in (project.data, project.tasks) for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if any(part in path.read_text(encoding="utf-8") for part in parts)]


def test_no_trace_is_left_and_others_keep_theirs(tmp_path: Path) -> None:
    project = filled(tmp_path)
    assert len(traces(project)) >= 6
    before = Records.load(project.data)
    report = forget_owner(project, "ada-0815")
    assert traces(project) == []
    assert report.erased == {
        "prompts": 3,
        "responses": 6,
        "demonstrations": 3,
        "rankings": 3,
        "ratings": 3,
        "tasks": 1,
        "rejected rows": 2,
    }
    after = Records.load(project.data)
    theirs = {id: prompt for id, prompt in before.prompts.items() if prompt.user != "ada-0815"}
    assert after.prompts == theirs
    assert len(theirs) == 4
    for kind in ("response", "demonstration", "ranking", "rating"):
        kept = {id: record for id, record in before.by_kind(kind).items() if record.prompt_id in theirs}
        assert after.by_kind(kind) == kept
    tasks = (project.tasks / "ranking.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in tasks] == [prompts(1)[0]]


def test_a_conversation_goes_with_every_turn_of_its_owner(tmp_path: Path) -> None:
    project = new_project(tmp_path)
    said = [("system", PRIVATE[2]), ("user", PRIVATE[0]), ("assistant", "Of course."), ("user", PRIVATE[1])]
    rows = [{"messages": [{"role": role, "content": text} for role, text in said], "owner": "ada-0815"}]
    take_in(tmp_path, [*rows, {"messages": [{"role": "user", "content": prompts(1)[0]}], "owner": "bob"}], "chat")
    (tmp_path / "rows.jsonl").unlink()
    refused = [{"role": "user", "content": PRIVATE[1]}, {"role": "nobody", "content": "x"}]
    put(tmp_path / "broken.jsonl", [{"messages": refused}, {"messages": [{"role": "user", "content": "Name a tree."}]}])
    import_file("messages", tmp_path / "broken.jsonl", project.data)
    (tmp_path / "broken.jsonl").unlink()
    report = forget_owner(project, "ada-0815")
    assert report.erased == {"prompts": 1, "rejected rows": 1}
    assert traces(project) == []
    assert take_in(tmp_path, rows, "chat")[0].left_out == {"forgotten owner": 1}


def test_they_do_not_come_back(tmp_path: Path) -> None:
    project = filled(tmp_path)
    ids = {prompt.text: prompt.id for prompt in Records.load(project.data).prompts.values()}
    forget_owner(project, "ada-0815")
    rows = [{"prompt": text, "owner": "ada-0815"} for text in [*PRIVATE, "Something new about five slow walkers"]]
    report, _ = take_in(tmp_path, [*rows, {"prompt": PRIVATE[0]}, {"prompt": "Name a lake.", "owner": "bob"}])
    (tmp_path / "rows.jsonl").unlink()
    assert (report.added, report.left_out["forgotten owner"]) == (1, 5)
    labels = [
        {"messages": [{"role": "user", "content": PRIVATE[0]}], "user": "ada-0815"},
        {"messages": [{"role": "user", "content": PRIVATE[0]}, {"role": "assistant", "content": "Dear lighthouse board, "}]},
        {"messages": [{"role": "user", "content": "Name a rock."}, {"role": "assistant", "content": "Granite."}]},
    ]
    said = import_file("messages", put(tmp_path / "chat.jsonl", labels), project.data)
    assert (said.accepted, said.rejected) == (1, 2)
    assert all("forgotten" in reason for reason in said.reasons)
    task = {"kind": "ranking", "prompt_id": ids[PRIVATE[0] + "\n"], "prompt": PRIVATE[0], "response_ids": ["r00", "r01"]}
    task |= {"responses": ["five slow walkers", "b"], "ranks": [1, 2], "labeler": "kim", "metadata": {}}
    other = {"kind": "demonstration", "id": "d9", "prompt_id": ids[prompts(1)[0] + "\n"], "text": "Well.", "labeler": "kim"}
    named = {"kind": "prompt", "id": "my-own-id", "text": PRIVATE[0] + "\n"}
    said = import_file("heedful", put(tmp_path / "tasks.jsonl", [task, other, named]), project.data)
    assert (said.accepted, said.rejected) == (1, 2)
    for name in ("chat.jsonl", "tasks.jsonl"):
        (tmp_path / name).unlink()
    assert traces(project) == []
    assert sum("forgotten" in row["reason"] for row in rejected(tmp_path)) == 9


def test_another_owner_may_write_the_same(tmp_path: Path) -> None:
    project = filled(tmp_path)
    forget_owner(project, "ada-0815")
    report, _ = take_in(tmp_path, [{"prompt": PRIVATE[2], "owner": "zoë"}])
    assert report.added == 1


def test_the_tombstone_holds_no_name_and_is_written_once(tmp_path: Path) -> None:
    project = filled(tmp_path)
    ids = list(Records.load(project.data).prompts)
    first = forget_owner(project, "ada-0815")
    tombstone = (project.data / "forgotten.jsonl").read_bytes()
    again = forget_owner(project, "ada-0815")
    assert (again.time, again.erased) == (first.time, {})
    assert (project.data / "forgotten.jsonl").read_bytes() == tombstone
    row = json.loads(tombstone)
    assert row.keys() == {"owner", "time", "erased", "prompts", "runs"}
    assert row["erased"]["prompts"] == len(row["prompts"]) == 3
    assert not any(id.encode() in tombstone for id in ids)
    assert Forgotten(project.data).owner("ada-0815")
    assert not Forgotten(project.data).owner("bob")


def test_an_owner_who_is_not_there(tmp_path: Path) -> None:
    project = filled(tmp_path)
    with pytest.raises(MissingError, match="this owner has no data here"):
        forget_owner(project, "Ada-0815")
    assert not (project.data / "forgotten.jsonl").exists()


def test_a_broken_file_stops_it_before_anything_changed(tmp_path: Path) -> None:
    project = filled(tmp_path)
    with (project.data / "ratings.jsonl").open("a") as file:
        file.write("{half\n")
    before = {path: path.read_bytes() for path in project.data.iterdir() if path.is_file()}
    with pytest.raises(DataError, match=r"ratings\.jsonl"):
        forget_owner(project, "ada-0815")
    assert {path: path.read_bytes() for path in project.data.iterdir() if path.is_file()} == before


def test_without_the_key_nobody_can_be_told(tmp_path: Path) -> None:
    project = filled(tmp_path)
    forget_owner(project, "ada-0815")
    (project.data / "owners.json").unlink()
    with pytest.raises(DataError, match="could not be recognized"):
        Forgotten(project.data)


def offered(project: Project) -> Path:
    """A round's stage with the new prompts that it chose from: two of ada's, which no labeler got, and one of bob's."""
    folder = stage(project, "prompts_2-1", "nothing of it")
    rows = [{"id": "new-1", "text": f"{PRIVATE[2]} And then?\n", "user": "ada-0815", "split": "train"}]
    rows += [{"id": "new-2", "text": "Ask the old heron, and be quick.\n", "user": "ada-0815", "split": "train"}]
    rows += [{"id": "new-3", "text": "How tall is a fir?\n", "user": "bob", "split": "train"}]
    put(folder / "prompts.jsonl", rows)
    (folder / "known.json").write_text('["new-1", "new-2", "new-3"]')
    (project.runs / "round-2.json").write_text('{"prompts": ["new-1", "new-2", "new-3"]}')
    return folder


def left_of(project: Project) -> list[str]:
    needles = ("new-1", "new-2", "slow walkers", "old heron", "ada-0815")
    files = [path for path in project.runs.rglob("*") if path.is_file()]
    return [path.name for path in files if any(needle in path.read_text() for needle in needles)]


def test_prompts_that_a_round_only_chose_from_go_too(tmp_path: Path) -> None:
    project = filled(tmp_path)
    folder = offered(project)
    assert sorted(left_of(project)) == ["known.json", "prompts.jsonl", "round-2.json"]
    report = forget_owner(project, "ada-0815")
    assert (left_of(project), traces(project)) == ([], [])
    assert [json.loads(line)["id"] for line in (folder / "prompts.jsonl").read_text().splitlines()] == ["new-3"]
    assert json.loads((folder / "known.json").read_text()) == ["new-3"]
    assert folder in {run.folder for run in report.runs}


def test_an_owner_of_whom_only_a_round_knows(tmp_path: Path) -> None:
    project = new_project(tmp_path)
    take_in(tmp_path, [{"prompt": "Name a tree.", "owner": "bob"}])
    offered(project)
    forget_owner(project, "ada-0815")
    assert left_of(project) == []


@pytest.mark.parametrize(
    "turns", [7, ["Name a tree."], [{"role": "user", "content": "Name a tree."}], [{"role": "user", "text": 3}]]
)
def test_a_file_of_the_users_own_may_be_called_prompts_too(tmp_path: Path, turns: Any) -> None:
    project = filled(tmp_path)
    rows = [{"id": "mine-1", "user": "ada-0815", "turns": turns}, {"id": "mine-2", "user": "ada-0815", "text": None}]
    (project.folder / "mine").mkdir()
    put(project.folder / "mine" / "prompts.jsonl", rows)
    assert forget_owner(project, "ada-0815").erased["prompts"] == 3
    assert traces(project) == []


@pytest.mark.parametrize("writes", range(12))
def test_killed_anywhere_with_a_rounds_prompts(tmp_path: Path, writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    project = filled(tmp_path)
    offered(project)
    replace, left = os.replace, [writes]

    def killed(source: Any, target: Any) -> None:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        replace(source, target)

    monkeypatch.setattr("os.replace", killed)
    try:
        forget_owner(project, "ada-0815")
        assert writes > 9
    except Killed:
        pass
    monkeypatch.setattr("os.replace", replace)
    forget_owner(project, "ada-0815")
    assert (left_of(project), traces(project)) == ([], [])


class Killed(BaseException):
    """As SIGKILL: nothing after it runs."""


@pytest.mark.parametrize("writes", range(9))
def test_killed_anywhere_and_run_again(tmp_path: Path, writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each rename the folder is whole, nothing of the owner can come in, and a second run finishes."""
    project = filled(tmp_path)
    replace, unlink, left, dead = os.replace, Path.unlink, [writes], [False]

    def killed(source: Any, target: Any) -> None:
        dead[0] = left[0] == 0
        if dead[0]:
            raise Killed
        left[0] -= 1
        replace(source, target)

    # Nor is anything cleaned up after it: the file written aside stays, with the text in it.
    monkeypatch.setattr("os.replace", killed)
    monkeypatch.setattr(Path, "unlink", lambda path, **how: None if dead[0] else unlink(path, **how))
    if writes < 8:
        with pytest.raises(Killed):
            forget_owner(project, "ada-0815")
    else:
        forget_owner(project, "ada-0815")
    monkeypatch.setattr("os.replace", replace)
    monkeypatch.setattr(Path, "unlink", unlink)
    Records.load(project.data)
    if writes:
        report, _ = take_in(tmp_path, [{"prompt": "All new.", "owner": "ada-0815"}, {"prompt": "Hm.", "owner": "bob"}])
        (tmp_path / "rows.jsonl").unlink()
        assert report.left_out["forgotten owner"] == 1
    forget_owner(project, "ada-0815")
    assert traces(project) == []
    assert json.loads((project.data / "forgotten.jsonl").read_text())["erased"]["prompts"] == 3


def stage(project: Project, name: str, text: str, age: float = 0.0) -> Path:
    folder = project.runs / name
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text('{"stage": "x", "done": true}')
    (folder / "samples.jsonl").write_text(text)
    os.utime(folder / "stage.json", (time.time() - age, time.time() - age))
    return folder


def test_the_runs_that_used_it(tmp_path: Path) -> None:
    project = filled(tmp_path)
    number = next(p.id for p in Records.load(project.data).prompts.values() if p.user == "ada-0815")
    day = 86_400.0
    stage(project, "sft-1", "nothing of it", age=day)  # ended before the text came in
    text = stage(project, "collect-1", json.dumps({"prompt": PRIVATE[1]}), age=day)
    by_id = stage(project, "collect-2", json.dumps({"prompt_id": number}), age=day)
    later = stage(project, "sft-2", "nothing of it", age=-60.0)
    (project.folder / "report.html").write_text("&lt;from the miller&gt; " + PRIVATE[0])
    report = forget_owner(project, "ada-0815")
    assert {run.folder: run.holds_text for run in report.runs} == {text: True, by_id: True, later: False}
    assert (report.files, set(report.cleaned)) == (
        (),
        {project.folder / "report.html", *(f / "samples.jsonl" for f in (text, by_id))},
    )
    assert (project.folder / "report.html").read_text() == "&lt;from the miller&gt; [erased]"
    assert [(folder / "samples.jsonl").read_text() for folder in (text, by_id, later)] == ["", "", "nothing of it"]
    again = forget_owner(project, "ada-0815")
    assert {run.folder for run in again.runs} == {text, by_id, later}


def test_prompts_that_do_not_say_when_they_came_make_every_run_doubtful(tmp_path: Path) -> None:
    project = new_project(tmp_path)
    chat = [{"messages": [{"role": "user", "content": "Name a lake."}], "user": "ada"}]
    import_file("messages", put(tmp_path / "chat.jsonl", chat), project.data)
    run = stage(project, "sft-1", "nothing of it", age=86_400.0)
    assert [(used.folder, used.holds_text) for used in forget_owner(project, "ada").runs] == [(run, False)]


@settings(max_examples=15)
@given(st.lists(st.tuples(st.sampled_from(["ada", "bob", "eve"]), st.text(min_size=14, max_size=60)), min_size=1, max_size=8))
def test_whatever_the_texts(pairs: list[tuple[str, str]]) -> None:
    rows = [{"prompt": f"{number}: {text} :{number}", "owner": owner} for number, (owner, text) in enumerate(pairs)]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        folder = Path(name)
        project = new_project(folder)
        _, records = take_in(folder, rows)
        mine = [prompt for prompt in records.prompts.values() if prompt.user == rows[0]["owner"]]
        if mine:
            forget_owner(project, rows[0]["owner"])
        kept = Records.load(project.data).prompts.values()
        assert {p.id for p in kept} == {p.id for p in records.prompts.values() if p.user != rows[0]["owner"]}
        content = "".join(path.read_text(encoding="utf-8") for path in project.data.iterdir() if path.is_file())
        assert not any(json.dumps(prompt.text, ensure_ascii=False)[1:-1] in content for prompt in mine)


def test_the_order_of_erasing_is_what_keeps_it_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen red: with prompts first, a kill leaves labels that name nothing."""
    project = filled(tmp_path)
    monkeypatch.setattr(erasing_project, "LABELS_FIRST", erasing_project.LABELS_FIRST[::-1])
    rewrite, done = erasing_project.rewrite, list[str]()

    def killed(path: Path, keep: Any) -> None:
        if "prompts.jsonl" in done:
            raise Killed
        rewrite(path, keep)
        done.append(path.name)

    monkeypatch.setattr(erasing_project, "rewrite", killed)
    with pytest.raises(Killed):
        forget_owner(project, "ada-0815")
    with pytest.raises(DataError):
        Records.load(project.data)
