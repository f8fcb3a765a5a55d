"""People who label in the labeling database (`heedful web`): align puts its tasks there and takes their answers from there.

Answers are taken when every task has all the answers it wants (or was set aside or withdrawn), or when the user chooses to
continue with the answers so far. Until then, answers taken earlier stay in use, so an interrupted run continues with the same
data.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection

from heedful.align.rounds import asking_stages
from heedful.align.stages import STAGES, Asked, Stage
from heedful.align.task_files import blinded
from heedful.evaluate.results import Group
from heedful.labeling.database.connection import Database, open_database
from heedful.labeling.database.locating import database_of, if_there
from heedful.labeling.exchange import asking
from heedful.labeling.exchange.asking import Progress, Task
from heedful.project.data_folder import Records, record_to_json
from heedful.project.ended_rounds import newest_round
from heedful.project.files import write_jsonl
from heedful.project.project import Project
from heedful.project.runs import newest_done, records_in, stage_folders, with_records
from heedful.prompts.withdrawing import apply_withdrawals
from heedful.records import Demonstration, Phase, Prompt, Ranking, Response

PEOPLE_STAGE = "people"
"""Name of the runs of `heedful evaluate people`, ``runs/people-<n>/``."""
_PHASES: Mapping[Group, Phase] = {"held_out": "evaluation", "training": "training"}
"""The phase in which each group works."""
OTHERS = "others"
"""Folder in a stage's folder, for prompts and responses of tasks that researchers made themselves."""
_WORDS: Mapping[Asked, str] = {
    "demonstrations": "demonstration tasks",
    "rankings": "ranking tasks",
    "evaluation by people": "evaluation tasks",
}


@dataclass(frozen=True, slots=True)
class LabelingDatabase:
    """People who label in their browsers or through the application's API."""

    project: Project

    @property
    def marked(self) -> Literal["people"]:
        return "people"

    @property
    def invents_data(self) -> bool:
        return False

    @property
    def answers_at_once(self) -> bool:
        return False

    @property
    def groups(self) -> Mapping[str, Group]:
        return {}

    def named(self, responses: Sequence[Response], run: str) -> list[Response]:
        return blinded(responses, run, self.project.seed)

    def known(self, collect: Path | None = None) -> Records:
        """The data, and the answers taken so far from all runs, because people's work is never thrown away."""
        records = Records.load(self.project.data)
        for stage in STAGES[:-1]:
            for _, folder in sorted(stage_folders(self.project.runs, stage.name).items() if stage.asks else ()):
                records = with_records(records, folder / OTHERS, ("prompt", "response"))
                if (folder / "rankings.jsonl").is_file():
                    records = with_records(records, folder, ("response", "ranking"))
                records = with_records(records, folder, ("demonstration",))
        return records

    def ask(self, tasks: Iterable[Task], folder: Path, *, partly: bool = False) -> str | None:
        records = Records.load(self.project.data)
        database = open_database(database_of(self.project.folder, None))
        imported = _ranked_in_files(records)
        left = (one for one in tasks if not imported.intersection(response.id for response in one.responses))
        try:
            asking.add_tasks(database, left, name=f"{self.project.name}: {folder.name}")
            return self._take(database, _stage_of(folder), folder, records, partly=partly)
        finally:
            database.close()

    def judge(self, tasks: Sequence[Task], folder: Path, *, partly: bool = False) -> str | None:
        """Give each group its tasks in its own phase: held-out labelers in evaluation, training labelers in training."""
        groups: list[Group] = [group for group in _PHASES if any(task.labelers.get(group) for task in tasks)]
        database = open_database(database_of(self.project.folder, None))
        try:
            for group in groups:
                phase = _PHASES[group]
                own = (replace(task, phase=phase, people=task.labelers[group]) for task in tasks if task.labelers.get(group))
                asking.add_tasks(database, own, name=f"{self.project.name}: {folder.name}, {phase}")
            with database.read() as connection:
                far: dict[Group, Progress] = {group: _judged(connection, group, tasks) for group in groups}
                if any(one.open for one in far.values()) and not (partly and any(one.answered for one in far.values())):
                    return _rated_in_words(far, self.project.folder)
                shown = {response.id for task in tasks for response in task.responses}
                answers = [one for group in groups for one in asking.rankings(connection, _PHASES[group])]
                forms = [one for group in groups for one in asking.ratings(connection, _PHASES[group])]
            write_jsonl(folder / "ratings.jsonl", (record_to_json(one) for one in forms if one.response_id in shown))
            own_answers = (record_to_json(one) for one in answers if shown.issuperset(one.response_ids))
            write_jsonl(folder / "rankings.jsonl", own_answers)
        finally:
            database.close()
        return None

    def take(self, *, partly: bool = False) -> None:
        with if_there(self.project.folder) as database:
            if database is None:
                return
            apply_withdrawals(database, self.project, alone=True)  # what users have withdrawn must not be trained on
            records = Records.load(self.project.data)
            # A finished round keeps the answers that it used.
            for stage in _newest_asking(self.project.runs):
                folder = newest_done(self.project.runs, stage.name)
                if folder is not None:
                    self._take(database, stage, folder, records, partly=partly)

    def can_judge(self, prompt: Prompt) -> bool:
        """They can judge any prompt."""
        return True

    def waiting(self, stage: Stage) -> str | None:
        folder = newest_done(self.project.runs, stage.name)
        if folder is None:
            return None
        with self._reading() as connection:
            progress = _progress(connection, stage, folder, _ranked_in_files(Records.load(self.project.data)))
            if progress.open:
                return self._in_words(stage, progress)
            if not progress.tasks:
                return None
            used = {record.id for kind in ("demonstration", "ranking") for record in records_in(folder, kind)}
            left = connection is not None and any(
                record.id not in used for record in _answers(connection, self.project, stage, folder)
            )
        words = _WORDS[_asks(stage)]
        return f"all {progress.tasks:,} {words} are answered: run `heedful align {self.project.folder}`" if left else None

    def unused(self, records: Records) -> str | None:
        asked = (newest_done(self.project.runs, stage.name) for stage in (*STAGES, *asking_stages(self.project.runs)))
        used = {*records.demonstrations, *records.rankings}
        used |= {record.id for folder in asked if folder is not None for record in records_in(folder, "ranking")}
        apart = _judged_apart(self.project)
        with self._reading() as connection:
            if connection is None:
                return None
            counts = {
                "demonstrations": sum(one.id not in used for one in asking.demonstrations(connection)),
                "rankings": _num_unused(asking.rankings(connection, "training"), used, apart),
                "rankings of the evaluation": _num_unused(asking.rankings(connection, "evaluation"), used, apart),
            }
        said = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        return f"answers that wait to be used: {said}" if said else None

    @contextmanager
    def _reading(self) -> Iterator[Connection | None]:
        """A connection that reads one consistent state of the database, or None if there is no database yet."""
        with if_there(self.project.folder) as database:
            if database is None:
                yield None
                return
            with database.read() as connection:
                yield connection

    def _take(self, database: Database, stage: Stage, folder: Path, records: Records, *, partly: bool) -> str | None:
        """Write the answers to the stage's folder if they may be used now; returns in words what still waits."""
        with database.read() as connection:
            progress = _progress(connection, stage, folder, _ranked_in_files(records))
            if not progress.tasks:
                return None
            if progress.open == 0 or (partly and progress.answered):
                self._write(connection, stage, folder, records)
        return self._in_words(stage, progress) if progress.open or not progress.answered else None

    def _write(self, connection: Connection, stage: Stage, folder: Path, records: Records) -> None:
        answers = list(_answers(connection, self.project, stage, folder))
        if stage.asks != "evaluation by people":
            _write_others(connection, answers, folder, records)
        kind = "demonstrations" if stage.asks == "demonstrations" else "rankings"
        write_jsonl(folder / f"{kind}.jsonl", map(record_to_json, answers))
        if kind == "rankings":
            phase = "training" if stage.asks == "rankings" else "evaluation"
            ranked = {i for one in answers if isinstance(one, Ranking) for i in one.response_ids}
            ratings = (one for one in asking.ratings(connection, phase) if one.response_id in ranked)
            write_jsonl(folder / "ratings.jsonl", map(record_to_json, ratings))

    def _in_words(self, stage: Stage, progress: Progress) -> str:
        where, words = self.project.folder, _WORDS[_asks(stage)]
        if not progress.open:
            return f"all {progress.tasks:,} {words} were set aside or withdrawn without an answer: see `heedful web {where}`"
        if not progress.answered:
            return f"{progress.tasks:,} {words} wait: `heedful web {where}`"
        said = f"{progress.tasks - progress.open:,} of {progress.tasks:,} {words} are done: `heedful web {where}`"
        if stage.asks == "evaluation by people":
            return said
        return f"{said}; align continues when all are, or with the answers so far: `heedful align {where} --with-what-is-there`"


def _judged(connection: Connection, group: Group, tasks: Sequence[Task]) -> Progress:
    """The progress of one group's tasks."""
    about = [task.responses[0].id for task in tasks if task.labelers.get(group)]
    return asking.progress(connection, about, "rank", _PHASES[group])


def _rated_in_words(far: Mapping[Group, Progress], project: Path) -> str:
    """For example: 31 of 400 are rated (held-out labelers 20 of 200, training labelers 11 of 200): `heedful web mine`."""
    done, number = sum(one.tasks - one.open for one in far.values()), sum(one.tasks for one in far.values())
    parts = (f"{group.replace('_', '-')} labelers {one.tasks - one.open:,} of {one.tasks:,}" for group, one in far.items())
    each = f" ({', '.join(parts)})" if len(far) > 1 else ""
    return f"{done:,} of {number:,} are rated{each}: `heedful web {project}`"


def _judged_apart(project: Project) -> set[str]:
    """Responses of `heedful evaluate people`. Training labelers' judgements of them must not be trained on."""
    folders = stage_folders(project.runs, PEOPLE_STAGE).values()
    return {response.id for folder in folders for response in records_in(folder, "response")}


def _ranked_in_files(records: Records) -> set[str]:
    """Responses that people ranked in files, not in the database. People need not rank them again."""
    return {i for ranking in records.rankings.values() if "task_id" not in ranking.metadata for i in ranking.response_ids}


def _write_others(connection: Connection, answers: Sequence[Demonstration | Ranking], folder: Path, records: Records) -> None:
    """Write prompts and responses of researchers' own tasks, because they may be in no file of the project yet."""
    records = with_records(records, folder, ("response",))
    prompts = {one.prompt_id for one in answers} - records.prompts.keys()
    shown = {i for one in answers if isinstance(one, Ranking) for i in one.response_ids} - records.responses.keys()
    write_jsonl(folder / OTHERS / "prompts.jsonl", map(record_to_json, asking.stored_prompts(connection, prompts)))
    write_jsonl(folder / OTHERS / "responses.jsonl", map(record_to_json, asking.stored_responses(connection, shown)))


def _num_unused(rankings: Iterable[Ranking], used: Collection[str], apart: set[str]) -> int:
    return sum(one.id not in used and apart.isdisjoint(one.response_ids) for one in rankings)


def _asks(stage: Stage) -> Asked:
    assert stage.asks is not None
    return stage.asks


def _stage_of(folder: Path) -> Stage:
    stages = (*STAGES, *asking_stages(folder.parent))
    return next(stage for stage in stages if stage.name == folder.name.rpartition("-")[0])


def _newest_asking(runs: Path) -> list[Stage]:
    """The stages of the newest round whose answers are taken at the beginning; in round 1 the evaluation is not one of them."""
    newest = newest_round(runs)
    return [stage for stage in asking_stages(runs) if stage.round == newest] or [stage for stage in STAGES[:-1] if stage.asks]


def _asked_in_other_rounds(runs: Path, stage: Stage) -> set[str]:
    """Responses that another round asks labelers to rank. The answers belong to that round."""
    others = (row for row in (*STAGES, *asking_stages(runs)) if row.asks == "rankings" and row.round != stage.round)
    folders = (folder for row in others for folder in stage_folders(runs, row.name).values())
    return {response.id for folder in folders for response in records_in(folder, "response")}


def _progress(connection: Connection | None, stage: Stage, folder: Path, imported: Collection[str]) -> Progress:
    """The progress of the tasks in a stage's folder, without those about ``imported`` responses."""
    if stage.asks == "demonstrations":
        about = [prompt.id for prompt in records_in(folder, "prompt")]
    else:
        first: dict[str, str] = {}
        for response in records_in(folder, "response"):
            first.setdefault(response.prompt_id, response.id)
        about = [response_id for response_id in first.values() if response_id not in imported]
    if connection is None:
        return Progress(tasks=len(about), answered=0, open=len(about))
    kind = "demonstrate" if stage.asks == "demonstrations" else "rank"
    return asking.progress(connection, about, kind, "evaluation" if stage.asks == "evaluation by people" else "training")


def _answers(connection: Connection, project: Project, stage: Stage, folder: Path) -> Iterator[Demonstration | Ranking]:
    """People's answers of the kind that a stage asks for. For the evaluation, only those about its own responses."""
    if stage.asks == "demonstrations":
        yield from asking.demonstrations(connection)
    elif stage.asks == "rankings":
        apart = _judged_apart(project) | _asked_in_other_rounds(project.runs, stage)
        yield from (one for one in asking.rankings(connection, "training") if apart.isdisjoint(one.response_ids))
    else:
        shown = {response.id for response in records_in(folder, "response")}
        yield from (one for one in asking.rankings(connection, "evaluation") if shown.issuperset(one.response_ids))
