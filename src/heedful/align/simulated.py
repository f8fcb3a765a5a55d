"""Simulated labelers. Their work goes into the project's labeling database, where `heedful web` shows it like people's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection

from heedful.align.stages import Stage
from heedful.evaluate.results import Group
from heedful.labeling.database.connection import open_database
from heedful.labeling.database.locating import DATABASE_FILE
from heedful.labeling.exchange import labels
from heedful.labeling.exchange.asking import Task
from heedful.labeling.queue.recording import Work, is_recorded, record_work
from heedful.miniature.panel import Panel
from heedful.project.data_folder import Records, record_to_json
from heedful.project.files import write_jsonl
from heedful.project.fingerprints import fingerprint_of
from heedful.project.project import Project
from heedful.project.runs import records_in, stage_state, with_records
from heedful.project.selection import without_labels
from heedful.records import Demonstration, Prompt, Ranking, Rating, Response


@dataclass(frozen=True, slots=True)
class SimulatedLabelers:
    """The miniature's panel, which answers immediately."""

    project: Project
    panel: Panel

    @property
    def marked(self) -> Literal["simulated"]:
        return "simulated"

    @property
    def invents_data(self) -> bool:
        return True

    @property
    def answers_at_once(self) -> bool:
        return True

    @property
    def groups(self) -> Mapping[str, Group]:
        return self.panel.groups

    def can_judge(self, prompt: Prompt) -> bool:
        """They can judge prompts of simulated users, whose intent they know, but not prompts of people in the playground."""
        return prompt.source == "simulated"

    def waiting(self, stage: Stage) -> None:
        """Nothing ever waits."""

    def unused(self, records: Records) -> None:
        """None: each stage takes its own answers."""

    def take(self, *, partly: bool = False) -> None:
        """Do nothing, because the labelers of each run answered immediately."""

    def known(self, collect: Path | None = None) -> Records:
        """Prompts and demonstrations from the data, and the rankings in the folder ``collect``.

        Rankings in the data are left out: they may have been exported from this run, earlier runs or the evaluation.
        """
        records = without_labels(Records.load(self.project.data)) if self.project.data.is_dir() else Records()
        return records if collect is None else with_records(records, collect, ("response", "ranking"))

    def named(self, responses: Sequence[Response], run: str) -> list[Response]:
        """The responses under ids that no other text has, because the database holds the responses of all runs."""
        return [replace(r, id=f"{r.id}-{fingerprint_of(record_to_json(r))[:8]}") for r in responses]

    def ask(self, tasks: Iterable[Task], folder: Path, *, partly: bool = False) -> None:
        """Answer all tasks, unless the stage is done, or was killed after storing the answers to these tasks."""
        if stage_state(folder).get("done"):
            return
        tasks = list(tasks)
        if self._answered_before(tasks, folder):
            return
        with self.recorded(tasks, run=folder.name) as answers:
            if tasks[0].kind == "demonstrate":
                write_jsonl(folder / "demonstrations.jsonl", map(record_to_json, answers.demonstrations()))
                return
            # Write them one by one, because all ratings together would take most of the stage's memory.
            write_jsonl(folder / "ratings.jsonl", map(record_to_json, answers.ratings()))
            write_jsonl(folder / "rankings.jsonl", map(record_to_json, answers.rankings()))

    def judge(self, tasks: Sequence[Task], folder: Path, *, partly: bool = False) -> None:
        """Answer all tasks. Each task says how many labelers of which group it needs."""
        self.ask(tasks, folder)

    @contextmanager
    def recorded(self, tasks: Sequence[Task], *, run: str) -> Iterator[Answers]:
        """Store a run's answers, and let the block read them. If the block is interrupted, nothing is stored.

        The answers always go into the project's own file, because a database server with people's work should not contain
        simulated labelers.
        """
        database = open_database(self.project.folder / DATABASE_FILE)
        prompts = [task.prompt for task in tasks]
        responses = [response for task in tasks for response in task.responses]
        works = (work for task in tasks for work in self._works(task))
        try:
            with database.write() as connection:
                batch_ids = record_work(connection, works, run=run, groups=self.groups, prompts=prompts, responses=responses)
                yield Answers(connection, batch_ids)
        finally:
            database.close()

    def _answered_before(self, tasks: Sequence[Task], folder: Path) -> bool:
        """Whether a stage's folder has the answers to ``tasks``, and the database has them as this run's."""
        kind = "demonstration" if tasks[0].kind == "demonstrate" else "ranking"
        answers: list[Demonstration | Ranking] = list(records_in(folder, kind))
        about = {(one.prompt_id, one.response_ids if isinstance(one, Ranking) else ()) for one in answers}
        if about != {(task.prompt.id, tuple(response.id for response in task.responses)) for task in tasks}:
            return False
        database = open_database(self.project.folder / DATABASE_FILE)
        try:
            with database.read() as connection:
                return is_recorded(connection, kind, answers[0].id, run=folder.name)
        finally:
            database.close()

    def _works(self, task: Task) -> Iterator[Work]:
        if task.kind == "demonstrate":
            yield self.panel.demonstrate(task.prompt)
            return
        for group, number in task.labelers.items():
            yield from self.panel.assess(task.prompt, task.responses, group=group, labelers=number)


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of one run's labelers, read from the database in the order in which they were given."""

    connection: Connection
    batch_ids: Sequence[int]

    def demonstrations(self) -> Iterator[Demonstration]:
        return labels.stored_demonstrations(self.connection, batch_ids=self.batch_ids)

    def rankings(self) -> Iterator[Ranking]:
        return labels.stored_rankings(self.connection, batch_ids=self.batch_ids)

    def ratings(self) -> Iterator[Rating]:
        return labels.stored_ratings(self.connection, batch_ids=self.batch_ids)
