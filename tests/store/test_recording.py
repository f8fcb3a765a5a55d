from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import select
from tests.store.labeling import number_of

from heedful.errors import DataError
from heedful.records import RATING_FLAGS, Prompt, Ranking, Rating, Response
from heedful.store import labels, maintenance, recording
from heedful.store.database import Database
from heedful.store.recording import Assessment, record_assessments, recorded_assessments
from heedful.store.tables import assignment, event, task

GROUPS = {"trainer-1": "training", "trainer-2": "training", "outsider": "held_out"}
PROMPTS = [Prompt(id=f"p{n}", text=f"Prompt {n}") for n in range(5)]
RESPONSES = [Response(id=f"p{n}-{k}", prompt_id=f"p{n}", text="x", model="sft") for n in range(5) for k in range(4)]
SIMULATED = {"simulated": True}


def assessed() -> list[Assessment]:
    """Every labeler on every prompt; ties, another order of the flags each time."""
    result: list[Assessment] = []
    for n, prompt in enumerate(PROMPTS):
        ids = tuple(r.id for r in RESPONSES if r.prompt_id == prompt.id)
        for m, labeler in enumerate(GROUPS):
            flags = {flag: (n + m + i) % 5 == 0 for i, flag in enumerate(RATING_FLAGS[n:] + RATING_FLAGS[:n])}
            ratings = [
                Rating(
                    id=f"rating-{id}-{labeler}-7",
                    prompt_id=prompt.id,
                    response_id=id,
                    labeler=labeler,
                    overall=1 + (n + k) % 7,
                    flags=flags,
                    metadata=SIMULATED,
                )
                for k, id in enumerate(ids)
            ]
            order = Ranking(
                id=f"ranking-{prompt.id}-{labeler}-7",
                prompt_id=prompt.id,
                response_ids=ids,
                ranks=((1, 2, 2, 3), (2, 1, 1, 1), (1, 1, 1, 1))[(n + m) % 3],
                labeler=labeler,
                metadata=SIMULATED,
            )
            result.append(Assessment(ranking=order, ratings=ratings))
    return result


def record(database: Database, assessments: list[Assessment]) -> int:
    return record_assessments(
        database, assessments, name="collect-1", prompts=PROMPTS, responses=RESPONSES, groups=GROUPS, now=5.0
    )


def test_records_come_back_as_they_were(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The very same records in the same order, with the flags in theirs, also where a prompt's labelers are in two chunks."""
    monkeypatch.setattr(recording, "ANSWERS_AT_ONCE", 4)
    given = assessed()
    assert record(database, given) == len(given) == 15
    with database.read() as connection:
        found = list(recorded_assessments(connection))
        assert found == given
        assert [list(r.flags) for each in found for r in each.ratings] == [
            list(r.flags) for each in given for r in each.ratings
        ]
        tasks = connection.execute(select(task.c.phase, task.c.wanted, task.c.answered, task.c.held, task.c.state)).all()
        assert sorted(map(tuple, tasks)) == sorted([("training", 2, 2, 2, "done"), ("evaluation", 1, 1, 1, "done")] * 5)
        submits = connection.execute(select(event).where(event.c.action == "submit")).all()
        assert len(submits) == number_of(connection, assignment) == 15
    assert maintenance.check(database).problems == []


def test_simulated_is_said_in_exports(database: Database) -> None:
    record(database, assessed())
    with database.read() as connection:
        exported = list(labels.stored_rankings(connection))
        assert {(r.labeler, r.metadata["task"], r.metadata["simulated"]) for r in exported} == {
            ("trainer-1", "ranking", True),
            ("trainer-2", "ranking", True),
            ("outsider", "evaluation", True),
        }


def test_what_does_not_fit_is_refused(database: Database) -> None:
    good = assessed()[0]
    stranger = replace(good, ranking=replace(good.ranking, labeler="stranger"))
    for bad, problem in ((stranger, "in no group"), (replace(good, ratings=good.ratings[1:]), "not of the same outputs")):
        with pytest.raises(DataError, match=problem):
            record(database, [bad])
    with database.read() as connection:
        assert number_of(connection, assignment) == 0
