"""From what people said in the playground to the runs and models that used it: votes, edits, critiques, rankings, turns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from tests.labeling.labeling import add_person, rank_answer
from tests.labeling.usage.talk import ALPHA, BETA, answer_all, begin, compare

from heedful.align.round_intake import take_in
from heedful.errors import MissingError
from heedful.labeling.database.connection import Database, open_database
from heedful.labeling.exchange.asking import rankings
from heedful.labeling.queue import leases
from heedful.labeling.usage import blind_votes, consent, feedback
from heedful.labeling.usage.conversations import ConversationView
from heedful.lineage.subjects import Subject, SubjectKind, subject_of
from heedful.lineage.tracing import use_of
from heedful.lineage.use_record import UseRecord, write_use
from heedful.project.data_folder import Records, record_to_json
from heedful.project.files import write_jsonl
from heedful.project.project import Project, init_project
from heedful.prompts import intake


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(intake, "language_of_turns", lambda turns: "en")
    return init_project(tmp_path / "mine", base_model="none")


@pytest.fixture
def database(project: Project) -> Iterator[Database]:
    database = open_database(project.folder / "labels.sqlite")
    yield database
    database.close()


def a_run(folder: Path, parents: dict[str, str] | None = None, **records: list[str]) -> None:
    (folder / "model").mkdir(parents=True)
    (folder / "stage.json").write_text(json.dumps({"stage": folder.name, "fingerprint": folder.name, "done": True}))
    write_use(folder, UseRecord(heedful="0", sources="s", parents=parents or {}, records=records))


def said(database: Database, text: str, choice: str) -> ConversationView:
    """A comparison with a vote, an edit and a critique."""
    with database.write() as connection:
        me = add_person(connection, f"p-{choice}")
        view = compare(connection, me, text=text)
        first = view.turns[0].answers[0].id
        feedback.keep(connection, first, me, kind="edit", text=f"Edit of {text}")
        feedback.keep(connection, first, me, kind="critique", text=f"Critique of {text}")
        position = 1 if choice == "answer" else None
        blind_votes.vote(connection, view.turns[0].id, me, choice=choice, position=position)
    return view


def of(project: Project, database: Database | None, name: str, kind: SubjectKind | None = None) -> tuple[Subject, list[str]]:
    """What a name stands for, and the runs that were given it or build on such a run."""
    subject = subject_of(project, name, kind=kind, database=database)
    use = use_of(project, subject.ids)
    assert use.doubtful == ()
    return subject, [*use.given_to, *use.built_on]


def test_each_kind_of_feedback_leads_to_its_own_runs(project: Project, database: Database) -> None:
    view, tied = said(database, "Name a river, please.", "answer"), said(database, "Name a lake, please.", "tie")
    key, other = view.turns[0].key, tied.turns[0].key
    take_in(project, Console(quiet=True))
    edit, better, vote = f"edit-playground-{key}-0", f"edit-ranking-playground-{key}-0", f"vote-{key}"
    records = Records.load(project.data)
    assert {better, vote} <= records.rankings.keys()
    prompt = records.rankings[vote].prompt_id
    a_run(project.runs / "sft-1", prompts=[prompt], demonstrations=[edit])
    a_run(project.runs / "reward-1", prompts=[prompt], rankings=[better])
    a_run(project.runs / "reward_2-1", prompts=[prompt], rankings=[better, vote])
    a_run(project.runs / "policy_2-1", {"reward": "reward_2-1"})
    a_run(project.folder / "experiments" / "runs" / "ppo-1", prompts=[prompt])
    a_run(project.runs / "later-1", prompts=[], rankings=["another"])

    subject, used = of(project, database, vote)
    assert (subject.kind, subject.notes[0], used) == ("vote", "the vote says: answer", ["reward_2-1", "policy_2-1"])
    for name in (edit, better, f"edited-playground-{key}-0"):
        subject, used = of(project, database, name)
        assert (subject.kind, used) == ("edit", ["reward-1", "reward_2-1", "sft-1", "policy_2-1"]), name
    subject, used = of(project, database, f"critique-playground-{key}-0")
    assert (subject.kind, subject.notes[0], used) == ("critique", "critiques train no model", [])
    subject, used = of(project, database, key)
    everything = {"sft-1", "reward-1", "reward_2-1", "policy_2-1", "experiments/runs/ppo-1"}
    assert (subject.kind, set(used)) == ("turn", everything)
    subject, used = of(project, database, f"vote-{other}")
    assert (subject.notes[:2], used) == (("the vote says: tie", "a vote that prefers no answer trains no model"), [])
    assert of(project, database, edit, "record")[1] == ["sft-1"]
    # Without the labeling database, the records still tell.
    assert of(project, None, vote)[1] == ["reward_2-1", "policy_2-1"]
    for name in (f"vote-{other}", f"critique-playground-{key}-0", "vote-" + "0" * 24, "0" * 24):
        with pytest.raises(MissingError):
            of(project, None, name)


def test_a_ranking_on_the_board_leads_to_its_runs(project: Project, database: Database) -> None:
    with database.write() as connection:
        me = add_person(connection, "p-1")
        view = begin(connection, me, "Rank this.", layout="rank", models=(ALPHA, BETA), num_answers=4)
        view = answer_all(connection, view, "A", "B", "C", "D")
        number = feedback.start_ranking(connection, view.turns[0].id, me)
        task = leases.view_assignment(connection, number, me)
        answer = rank_answer([output.id for output in task.outputs])
        leases.submit(connection, number, me, token=task.token, answer=answer, seconds_spent=None)
        (ranking,) = rankings(connection, "training")
    folder = project.runs / "collect-1"
    a_run(folder)
    write_jsonl(folder / "rankings.jsonl", [record_to_json(ranking)])
    a_run(project.runs / "reward-1", {"rankings": "collect-1"}, rankings=[ranking.id])
    assert of(project, database, ranking.id)[1] == ["collect-1", "reward-1"]
    assert of(project, database, view.turns[0].key)[1] == ["collect-1", "reward-1"]
    assert consent.key_in(ranking.prompt_id) == view.turns[0].key


def test_an_owner_of_whom_only_an_experiment_or_an_unfinished_stage_knows(project: Project) -> None:
    rows = [{"id": "p-1", "text": "Name a tree.\n", "user": "zoë", "split": "train"}]
    for folder in (project.folder / "experiments" / "prompt-choice" / "runs" / "prompts_2-1", project.runs / "prompts_3-1"):
        folder.mkdir(parents=True)
        write_jsonl(folder / "prompts.jsonl", rows)
    (project.runs / "prompts_3-1" / "stage.json").write_text('{"stage": "prompts_3", "done": false}')
    path = project.folder / "experiments" / "prompt-choice" / "runs" / "prompts_2-1"
    (path / "stage.json").write_text('{"stage": "prompts_2", "done": true}')
    subject = subject_of(project, "zoe\u0308")
    assert subject.kind == "owner"
    assert "1 of these only in the folders of runs or experiments, which chose from them" in subject.notes
    assert use_of(project, subject.ids).given_to == ("prompts_3-1", "experiments/prompt-choice/runs/prompts_2-1")


@pytest.mark.parametrize(
    ("id", "key"),
    [
        ("playground-0123456789abcdef01234567", "0123456789abcdef01234567"),
        ("edit-ranking-playground-0123456789abcdef01234567-3", "0123456789abcdef01234567"),
        ("vote-0123456789abcdef01234567", "0123456789abcdef01234567"),
        ("vote-0123456789abcdef0123456", None),
        ("my-playground-0123456789abcdef01234567", None),
        ("prompt-0123456789abcdef", None),
    ],
)
def test_the_turn_that_an_id_names(id: str, key: str | None) -> None:
    assert consent.key_in(id) == key
