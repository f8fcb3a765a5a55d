from __future__ import annotations

import re

import pytest
from sqlalchemy import select
from tests.labeling.labels_by_hand import NOW, Labels

from heedful.errors import DataError, MissingError
from heedful.labeling.console import explorer
from heedful.labeling.database.connection import Database
from heedful.labeling.database.tables import event, person, screening_decision, task
from heedful.labeling.quality import candidate_screening
from heedful.statistics import screening_table
from heedful.statistics.screening import CODE_LETTERS

SECRET = b"k" * 32


def screened(database: Database) -> dict[str, int]:
    """Two candidates: ann agrees on 2 of 3 flags and 2 of 3 comparisons and has a demonstration; bob has done nothing."""
    with database.write() as connection:
        make = Labels(connection)
        who = {"ann": make.person("ann", group="candidate"), "bob": make.person("bob", group="candidate")}
        who |= {"rex": make.person("rex", role="researcher"), "old": make.person("old")}
        flags = make.batch(kind="flag_sensitive", phase="screening")
        for number, (gold, given) in enumerate(((True, True), (False, True), (None, True))):
            task_id = make.task(flags, make.prompt(f"f{number}"), gold=None if gold is None else {"sensitive": gold})
            make.answer(task_id, who["ann"], {"sensitive": given})
            # Where there is gold a researcher's own answer does not count.
            make.answer(task_id, who["rex"], {"sensitive": True})
        ranks = make.batch(phase="screening")
        task_id = make.task(ranks, make.prompt("r"), num_outputs=3)
        make.rank(task_id, who["ann"], "0", "2", "1")
        make.rank(task_id, who["rex"], "0", "1", "2")
        write = make.task(make.batch(kind="demonstrate", phase="screening"), make.prompt("d"))
        make.answer(write, who["ann"], {"text": "My own words"})
        topics = make.task(make.batch(kind="self_assess", phase="screening"), payload={"topics": ["health", "religion"]})
        make.answer(topics, who["ann"], {"topics": ["religion"]})
    return who


def code(who: dict[str, int], name: str) -> str:
    return candidate_screening.code_of(SECRET, who[name], 0)


def test_candidates_become_records_under_codes(database: Database) -> None:
    who = screened(database)
    with database.read() as connection:
        found = candidate_screening.screening(connection, SECRET)
    by_code = {record.candidate: record for record in found.records}
    assert set(by_code) == {code(who, "ann"), code(who, "bob")}
    ann = by_code[code(who, "ann")]
    assert (ann.sensitive_agreed, ann.sensitive_answered) == (2, 3)
    assert (ann.comparisons_agreed, ann.comparisons_made) == (2, 3)
    assert (ann.demonstration_scores, ann.topics) == ((), {"religion"})
    assert (found.topics, found.unscored) == (("health", "religion"), 1)
    assert by_code[code(who, "bob")].sensitive_answered == 0
    assert {row.standing for row in screening_table(found.records)} == {"missing"}
    # Neither pseudonym nor id: nothing that another page has too.
    assert not re.search(r"ann|bob|person", repr(found))


def test_gold_rankings_are_researchers_too(database: Database) -> None:
    with database.write() as connection:
        make = Labels(connection)
        ann = make.person("ann", group="candidate")
        gold = {"groups": [["r.0"], ["r.1", "r.2"]]}
        task_id = make.task(make.batch(phase="screening"), make.prompt("r"), num_outputs=3, gold=gold)
        make.rank(task_id, ann, "1", "0", "2")
    with database.read() as connection:
        (record,) = candidate_screening.screening(connection, SECRET).records
    # Of 01 and 02, which gold does not tie, ann has the second.
    assert (record.comparisons_agreed, record.comparisons_made) == (1, 2)


def test_demonstrations_are_scored_without_names(database: Database) -> None:
    who = screened(database)
    with database.write() as connection:
        assert candidate_screening.make_scoring_tasks(connection, created_by=who["rex"], overlap=2, now=NOW) == 1
        assert candidate_screening.make_scoring_tasks(connection, created_by=who["rex"], now=NOW) == 0
        row = connection.execute(select(task).where(task.c.kind == "score_demonstration")).mappings().one()
        assert (row["prompt_id"], row["payload"]["text"], row["phase"]) == ("d", "My own words", "screening")
        assert not set(row["payload"]) - {"text", candidate_screening.SCORED}
        make = Labels(connection)
        make.answer(row["id"], who["rex"], {"score": 7})
        make.answer(row["id"], make.person("ada", role="admin"), {"score": 6})
    with database.read() as connection:
        found = candidate_screening.screening(connection, SECRET)
    by_code = {record.candidate: record for record in found.records}
    assert by_code[code(who, "ann")].demonstration_scores == (6,)  # the mean 6.5, rounded to even
    assert found.unscored == 0


def test_selecting_moves_the_person_and_is_written_down(database: Database) -> None:
    who = screened(database)
    with database.write() as connection:
        candidate_screening.decide(
            connection, SECRET, code(who, "bob"), selected=False, note="", decided_by=who["rex"], now=NOW
        )
        candidate_screening.decide(
            connection, SECRET, code(who, "ann"), selected=True, note="Good", decided_by=who["rex"], now=NOW
        )
    with database.read() as connection:
        groups = {row.pseudonym: row.group_name for row in connection.execute(select(person))}
        assert (groups["ann"], groups["bob"]) == ("training", "candidate")
        decided = connection.execute(select(screening_decision).order_by(screening_decision.c.id)).mappings().all()
        assert [(row["person_id"], row["selected"], row["code"]) for row in decided] == [
            (who["bob"], False, code(who, "bob")),
            (who["ann"], True, code(who, "ann")),
        ]
        last = connection.execute(select(event).where(event.c.action == "select_candidate")).mappings().one()
        assert (last["person_id"], last["after"]["group"], last["subject"]) == (who["rex"], "training", "screening_decision")
        found = candidate_screening.screening(connection, SECRET)
    assert [record.candidate for record in found.records] == [code(who, "bob")]
    assert found.declined == {code(who, "bob")}
    with database.write() as connection:
        with pytest.raises(MissingError, match="no such candidate"):
            candidate_screening.decide(connection, SECRET, code(who, "ann"), selected=False, note="", decided_by=who["rex"])
        with pytest.raises(DataError, match="too long"):
            candidate_screening.decide(
                connection, SECRET, code(who, "bob"), selected=True, note="x" * 2001, decided_by=who["rex"]
            )
        # A declined candidate may be selected after all.
        candidate_screening.decide(connection, SECRET, code(who, "bob"), selected=True, note="", decided_by=who["rex"])
        assert candidate_screening.screening(connection, SECRET).records == ()


def test_a_code_lasts_as_long_as_a_candidacy_and_needs_the_secret(database: Database) -> None:
    who = screened(database)
    first = code(who, "ann")
    assert re.fullmatch(f"[{CODE_LETTERS}]{{8}}", first)
    assert first != candidate_screening.code_of(b"another", who["ann"], 0)
    with database.write() as connection:
        candidate_screening.decide(connection, SECRET, first, selected=True, note="", decided_by=who["rex"])
        connection.execute(person.update().where(person.c.id == who["ann"]).values(group_name="candidate"))
    with database.read() as connection:
        found = candidate_screening.screening(connection, SECRET)
    assert first not in {record.candidate for record in found.records}
    assert candidate_screening.code_of(SECRET, who["ann"], 1) in {record.candidate for record in found.records}
    assert found.declined == frozenset()


def test_nothing_else_shows_what_a_candidate_answered(database: Database) -> None:
    who = screened(database)
    searches = [explorer.Search(kind=kind) for kind in ("demonstration", "ranking", "rating")]
    with database.read() as connection:
        before = [row.labeler for search in searches for row in explorer.page(connection, search).rows]
        assert [row["labeler"] for row in explorer.every_row(connection, searches[0])] == []
    assert before == ["rex"] * 4  # one ranking and its three ratings: a researcher's own
    with database.write() as connection:
        candidate_screening.decide(connection, SECRET, code(who, "ann"), selected=True, note="", decided_by=who["rex"])
    with database.read() as connection:
        after = [row.labeler for search in searches for row in explorer.page(connection, search).rows]
        assert after == before  # nor once they are in the team: the answers were screening's
        by_name = explorer.page(connection, explorer.Search(kind="ranking", labeler="ann"))
    assert by_name.rows == ()
