"""Simulated labelers' work on its way through the project's labeling database, where `heedful web` shows it as people's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from heedful.evaluate.results import Group
from heedful.labeling.database.connection import open_database
from heedful.labeling.database.locating import DATABASE_FILE
from heedful.labeling.exchange import labels
from heedful.labeling.queue.recording import Work, record_work
from heedful.project.data_folder import record_to_json
from heedful.project.fingerprints import fingerprint_of
from heedful.project.project import Project
from heedful.records import Demonstration, Prompt, Ranking, Rating, Response


@dataclass(frozen=True, slots=True)
class Answers:
    """What one run's labelers said, read from the database, in the order in which they said it."""

    connection: Connection
    batch_ids: Sequence[int]

    def demonstrations(self) -> Iterator[Demonstration]:
        return labels.stored_demonstrations(self.connection, batch_ids=self.batch_ids)

    def rankings(self) -> Iterator[Ranking]:
        return labels.stored_rankings(self.connection, batch_ids=self.batch_ids)

    def ratings(self) -> Iterator[Rating]:
        return labels.stored_ratings(self.connection, batch_ids=self.batch_ids)


@contextmanager
def recorded(
    project: Project,
    works: Iterable[Work],
    *,
    run: str,
    groups: Mapping[str, Group],
    prompts: Iterable[Prompt],
    responses: Iterable[Response] = (),
) -> Iterator[Answers]:
    """Store a run's work; within the block it is read, and kept at its end: a run that is interrupted leaves nothing behind.

    Always in the file of the project: simulated labelers have no business in the database server of ``$DATABASE_URL``.
    """
    database = open_database(project.folder / DATABASE_FILE)
    try:
        with database.write() as connection:
            batch_ids = record_work(connection, works, run=run, groups=groups, prompts=prompts, responses=responses)
            yield Answers(connection, batch_ids)
    finally:
        database.close()


def named_by_content(responses: Iterable[Response]) -> list[Response]:
    """The same responses with ids that no other text has: the database holds those of all runs."""
    return [replace(r, id=f"{r.id}-{fingerprint_of(record_to_json(r))[:8]}") for r in responses]
