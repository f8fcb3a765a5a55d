from __future__ import annotations

import pytest
from sqlalchemy import func, select
from tests.labeling.labeling import add_person, add_ranking_tasks

from heedful.errors import DataError, MissingError
from heedful.labeling.database.connection import Database
from heedful.labeling.database.tables import acknowledgement, event, instruction
from heedful.labeling.people import instruction_versions
from heedful.labeling.queue import leases


def test_what_ships_is_published_once(database: Database) -> None:
    with database.write() as connection:
        count = instruction_versions.publish_first_versions(connection, now=1.0)
        assert count == sum(map(len, instruction_versions.FIRST_KINDS.values()))
        assert instruction_versions.publish_first_versions(connection, now=2.0) == 0
        assert connection.execute(select(func.count()).select_from(instruction)).scalar_one() == count
    with database.read() as connection:
        assert all(one.created == 1.0 and one.version == 1 for one in instruction_versions.all_current(connection))


def test_training_puts_helpfulness_first_and_evaluation_truthfulness_and_harmlessness() -> None:
    for kind in ("demonstrate", "rank", "rate"):
        training, evaluation = (instruction_versions.first_version(kind, phase) for phase in ("training", "evaluation"))
        order = [
            [text.index(f"**{word}**: ") for word in ("Helpful", "Truthful", "Harmless")] for text in (training, evaluation)
        ]
        assert order[0][0] < order[0][1] < order[0][2]
        assert order[1][1] < order[1][2] < order[1][0]
        assert "skip" in training
        assert "wanted" in training


def test_no_page_that_ships_has_a_place_left_empty() -> None:
    for phase, kinds in instruction_versions.FIRST_KINDS.items():
        for kind in kinds:
            text = instruction_versions.first_version(kind, phase)
            assert text.startswith("# ")
            assert "{{" not in text
            assert "\n\n\n" not in text
            assert ("your answers are compared" in text.lower().replace("\n", " ")) == (phase == "screening")


def test_versions(database: Database) -> None:
    with database.write() as connection:
        ada = add_person(connection, "ada", role="researcher")
        first = instruction_versions.publish(
            connection, "rank", "training", "# One\r\n", change_note="New.", author_id=ada, now=1.0
        )
        assert (first.version, first.markdown, first.author_id) == (1, "# One\n", ada)
        second = instruction_versions.publish(
            connection, "rank", "training", "# Two", change_note=" Ties. ", author_id=ada, now=2.0
        )
        other = instruction_versions.publish(
            connection, "rank", "evaluation", "# One", change_note="New.", author_id=None, now=3.0
        )
        assert (second.version, second.change_note, other.version) == (2, "Ties.", 1)
        assert instruction_versions.current(connection, "rank", "training") == second
        assert instruction_versions.current(connection, "rate", "training") is None
        assert instruction_versions.history(connection, "rank", "training") == [second, first]
        assert instruction_versions.get(connection, first.id) == first
        assert instruction_versions.all_current(connection) == [second, other]
        assert instruction_versions.all_current(connection, ["evaluation"]) == [other]
        last = connection.execute(select(event).order_by(event.c.id.desc()).limit(2)).all()[1]
        assert (last.action, last.person_id, last.before) == ("publish_instructions", ada, {"id": first.id, "version": 1})


REFUSED = (
    ("rank", "training", "  ", "note"),
    ("rank", "training", "# One", "note"),
    ("rank", "training", "# Two", " "),
    ("rank", "training", "# Two\x00", "note"),
    ("sing", "training", "# Two", "note"),
    ("rank", "holiday", "# Two", "note"),
)


def test_what_is_no_new_version_is_refused(database: Database) -> None:
    with database.write() as connection:
        instruction_versions.publish(connection, "rank", "training", "# One", change_note="New.", author_id=None)
        for kind, phase, markdown, note in REFUSED:
            with pytest.raises(DataError):
                instruction_versions.publish(connection, kind, phase, markdown, change_note=note, author_id=None)  # type: ignore[arg-type]


def test_a_change_is_announced_until_acknowledged(database: Database) -> None:
    with database.write() as connection:
        ann, bob = add_person(connection, "ann"), add_person(connection, "bob")
        first = instruction_versions.publish(connection, "rank", "training", "# One", change_note="New.", author_id=None)
        assert instruction_versions.unacknowledged(connection, ann) == [
            instruction_versions.Unread(instruction=first, acknowledged=None)
        ]
        instruction_versions.acknowledge(connection, ann, first.id, now=1.0)
        instruction_versions.acknowledge(connection, ann, first.id, now=2.0)
        assert connection.execute(select(acknowledgement.c.at)).scalars().all() == [1.0]
        assert instruction_versions.unacknowledged(connection, ann) == []
        second = instruction_versions.publish(connection, "rank", "training", "# Two", change_note="Ties.", author_id=None)
        assert instruction_versions.unacknowledged(connection, ann) == [
            instruction_versions.Unread(instruction=second, acknowledged=first)
        ]
        assert instruction_versions.unacknowledged(connection, ann, ["evaluation"]) == []
        assert instruction_versions.unacknowledged(connection, bob)[0].acknowledged is None
        assert instruction_versions.last_acknowledged(connection, ann, "rank", "training") == first
        with pytest.raises(MissingError):
            instruction_versions.acknowledge(connection, ann, 99)


def test_a_lease_keeps_the_version_in_force(database: Database) -> None:
    with database.write() as connection:
        ann = add_person(connection, "ann")
        instruction_versions.publish(connection, "rank", "training", "# One", change_note="New.", author_id=None)
        second = instruction_versions.publish(connection, "rank", "training", "# Two", change_note="Ties.", author_id=None)
        add_ranking_tasks(connection, 1)
        view = leases.claim(connection, ann, kind="rank")
        assert view is not None
        assert view.instruction_id == second.id
