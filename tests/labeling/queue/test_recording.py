from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, select
from tests.labeling.labeling import number_of

from heedful.conversation import turns_of
from heedful.errors import DataError, UserError
from heedful.labeling.database import maintenance
from heedful.labeling.database.connection import Database, open_database
from heedful.labeling.database.tables import assignment, batch, event, response, task
from heedful.labeling.exchange import labels
from heedful.labeling.people import accounts
from heedful.labeling.people.instruction_versions import publish
from heedful.labeling.queue import recording
from heedful.labeling.queue.recording import Work, assessing, record_work
from heedful.records import RATING_FLAGS, Phase, Prompt, Ranking, Rating, Response

GROUPS: dict[str, accounts.Group] = {"trainer-1": "training", "trainer-2": "training", "outsider": "held_out"}
PROMPTS = [Prompt(id=f"p{n}", turns=turns_of(f"Prompt {n}\n")) for n in range(5)]
RESPONSES = [Response(id=f"p{n}-{k}", prompt_id=f"p{n}", text="x", model="sft") for n in range(5) for k in range(4)]


def judged() -> list[tuple[Ranking, list[Rating]]]:
    """Every labeler on every prompt; ties, another order of the flags each time."""
    result: list[tuple[Ranking, list[Rating]]] = []
    phases: dict[str, Phase] = {"trainer-1": "training", "trainer-2": "training", "outsider": "evaluation"}
    for n, prompt in enumerate(PROMPTS):
        ids = tuple(r.id for r in RESPONSES if r.prompt_id == prompt.id)
        for m, labeler in enumerate(GROUPS):
            flags = {flag: (n + m + i) % 5 == 0 for i, flag in enumerate(RATING_FLAGS[n:] + RATING_FLAGS[:n])}
            ratings = [
                Rating(
                    id=f"of {id} by {labeler}",
                    prompt_id=prompt.id,
                    response_id=id,
                    labeler=labeler,
                    overall=1 + (n + k) % 7,
                    flags=flags,
                    phase=phases[labeler],
                )
                for k, id in enumerate(ids)
            ]
            ranks = ((1, 2, 2, 3), (2, 1, 1, 1), (1, 1, 1, 1))[(n + m) % 3]
            order = Ranking(
                id=f"{prompt.id} by {labeler}",
                prompt_id=prompt.id,
                response_ids=ids,
                ranks=ranks,
                labeler=labeler,
                phase=phases[labeler],
            )
            result.append((order, ratings))
    return result


def assessments() -> list[Work]:
    return [assessing(ranking, ratings, seconds_spent=12.5) for ranking, ratings in judged()]


def written(prompt_id: str, labeler: str = "trainer-1") -> Work:
    return Work(kind="demonstrate", labeler=labeler, prompt_id=prompt_id, answer={"text": "Because."}, seconds_spent=30.0)


def record(connection: Connection, works: Sequence[Work], *, run: str = "collect-1") -> list[int]:
    return record_work(connection, works, run=run, groups=GROUPS, prompts=PROMPTS, responses=RESPONSES, now=5.0)


def test_records_come_back_as_they_were(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in the same order, with the flags in theirs, also where a prompt's labelers are in two chunks."""
    monkeypatch.setattr(recording, "ANSWERS_AT_ONCE", 4)
    with database.write() as connection:
        batches = record(connection, assessments())
        found = list(labels.stored_rankings(connection, batch_ids=batches))
        rated = list(labels.stored_ratings(connection, batch_ids=batches))
        assert [replace(r, id="", metadata={}) for r in found] == [replace(r, id="") for r, _ in judged()]
        given = [rating for _, ratings in judged() for rating in ratings]
        assert [replace(r, id="", metadata={}) for r in rated] == [replace(r, id="") for r in given]
        assert [list(r.flags) for r in rated] == [list(r.flags) for r in given]
        tasks = connection.execute(select(task.c.phase, task.c.wanted, task.c.answered, task.c.held, task.c.state)).all()
        assert sorted(map(tuple, tasks)) == sorted([("training", 2, 2, 2, "done"), ("evaluation", 1, 1, 1, "done")] * 5)
        submits = connection.execute(select(event).where(event.c.action == "submit")).all()
        assert len(submits) == number_of(connection, assignment) == 15
    assert maintenance.check(database).problems == []


def test_an_experiments_own_database_gives_no_id_of_the_projects(tmp_path: Path) -> None:
    """Both count their tasks from 1: an answer that names only its task and labeler would take another one's place."""
    ids: list[set[str]] = []
    for number, run in enumerate(("collect-1", "collect-1", "collect_2-random-1")):
        database = open_database(tmp_path / f"{number}.sqlite")
        with database.write() as connection:
            record(connection, assessments(), run=run)
            found = [*labels.stored_rankings(connection), *labels.stored_ratings(connection)]
        database.close()
        ids.append({one.id for one in found})
        assert len(ids[-1]) == len(found)
    assert ids[0] == ids[1], "the same run gives the same ids"
    assert not ids[0] & ids[2]


def test_exports_say_who_when_and_how_long(database: Database) -> None:
    with database.write() as connection:
        note = {"change_note": "First version.", "author_id": None}
        publish(connection, "rank", "evaluation", "Truth first.", **note)
        publish(connection, "rank", "evaluation", "Truth first, then harm.", **note)
        record(connection, [*assessments(), written("p2")])
        rows = list(labels.exported_records(connection))
    labelled = [row for row in rows if row["kind"] in ("demonstration", "ranking", "rating")]
    keys = ("group", "simulated", "instruction_version", "seconds_spent", "batch")
    assert {
        (row["kind"], row["labeler"], row.get("phase", "training"), *(row["metadata"][key] for key in keys)) for row in labelled
    } == {
        ("demonstration", "trainer-1", "training", "training", True, 1, 30.0, "collect-1: training"),
        *(
            (kind, labeler, "training", "training", True, 1, 12.5, "collect-1: training")
            for kind in ("ranking", "rating")
            for labeler in ("trainer-1", "trainer-2")
        ),
        *(
            (kind, "outsider", "evaluation", "held_out", True, 2, 12.5, "collect-1: evaluation")
            for kind in ("ranking", "rating")
        ),
    }


def test_two_runs_about_the_same_outputs_are_kept_apart(database: Database) -> None:
    with database.write() as connection:
        first = record(connection, assessments())
        second = record(connection, assessments()[:3], run="evaluate-1")
        before, after = ([r.id for r in labels.stored_rankings(connection, batch_ids=ids)] for ids in (first, second))
        assert (len(before), len(after)) == (15, 3)
        assert not set(before) & set(after)
        assert number_of(connection, response) == len(RESPONSES)
        names = connection.execute(select(batch.c.name)).scalars().all()
        assert [name.partition(":")[0] for name in names] == ["collect-1", "collect-1", "evaluate-1", "evaluate-1"]
    assert maintenance.check(database).problems == []


def test_an_interrupted_run_leaves_nothing_and_gives_the_same_ids_again(tmp_path: Path) -> None:
    database = open_database(tmp_path / "labels.sqlite")
    first: list[str] = []

    def interrupted() -> None:
        with database.write() as connection:
            first.extend(r.id for r in labels.stored_ratings(connection, batch_ids=record(connection, assessments())))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with database.write() as connection:
        assert number_of(connection, assignment) == number_of(connection, event) == 0
        again = [r.id for r in labels.stored_ratings(connection, batch_ids=record(connection, assessments()))]
    database.close()
    assert again == first
    assert len(set(again)) == len(again) == 60


def test_what_does_not_fit_is_refused(database: Database) -> None:
    ranking, ratings = judged()[0]
    with pytest.raises(DataError, match="not of the same outputs"):
        assessing(ranking, ratings[1:], seconds_spent=1.0)
    good, other = assessments()[:2]
    for bad, problem in (
        (replace(other, labeler="stranger"), "in no group"),
        (replace(other, answer={"ratings": {}, "groups": []}), "not complete"),
        (written("p9"), "no such prompt"),
    ):
        with pytest.raises(UserError, match=problem), database.write() as connection:
            record(connection, [good, bad])
    with database.read() as connection:
        assert number_of(connection, assignment) == 0


@pytest.mark.parametrize(("group", "simulated"), [("training", False), ("held_out", True)])
def test_a_pseudonym_of_somebody_else_is_refused(database: Database, group: accounts.Group, simulated: bool) -> None:
    with database.write() as connection:
        accounts.add_person(
            connection,
            name="Somebody",
            email=None,
            role="labeler",
            group=group,
            simulated=simulated,
            pseudonym="trainer-2",
        )
    with pytest.raises(DataError, match="'trainer-2' is the pseudonym of another person"), database.write() as connection:
        record(connection, assessments())
