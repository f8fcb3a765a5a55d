"""Tasks as files that people fill in and `heedful import` reads. They do not show which model wrote what (SPEC 2.3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from heedful.align.rounds import asking_stages
from heedful.align.stages import Asked, Stage
from heedful.evaluate.results import Group
from heedful.labeling.exchange.asking import Task
from heedful.project.data_folder import Records, file_name, record_to_json
from heedful.project.files import append_jsonl, locked, read_rows, write_jsonl
from heedful.project.project import Project
from heedful.project.runs import records_in
from heedful.records import Prompt, Response

_FILES: Mapping[Asked, str] = {
    "demonstrations": "demonstration",
    "rankings": "ranking",
    "evaluation by people": "evaluation",
}
"""Names of the files without their ending, .jsonl in the first round, _2.jsonl and so on in further rounds."""


@dataclass(frozen=True, slots=True)
class TaskFiles:
    """People who fill in ``tasks/*.jsonl``; `heedful import` takes their answers into the project's data."""

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

    def can_judge(self, prompt: Prompt) -> bool:
        """They can judge any prompt."""
        return True

    def waiting(self, stage: Stage) -> str | None:
        assert stage.asks is not None
        file = self._file(stage.asks, stage.round)
        if not file.is_file():
            return None
        if stage.round > 1:
            return self._left(file, partly=False)
        if stage.asks == "evaluation by people":
            records = Records.load(self.project.data)
            if any(ranking.phase == "evaluation" for ranking in records.rankings.values()):
                return None
        return waiting_in(self.project, file, sum(1 for _ in read_rows(file)))

    def unused(self, records: Records) -> None:
        """None, because `heedful import` takes all answers."""

    def take(self, *, partly: bool = False) -> None:
        """Do nothing, because `heedful import` takes the answers."""

    def known(self, collect: Path | None = None) -> Records:
        return Records.load(self.project.data)

    def named(self, responses: Sequence[Response], run: str) -> list[Response]:
        return blinded(responses, run, self.project.seed)

    def ask(self, tasks: Iterable[Task], folder: Path, *, partly: bool = False) -> str | None:
        """Write the tasks to fill in. Imported judgements of an evaluation are copied to its folder."""
        tasks = list(tasks)
        if not tasks:
            return how_to_import(self.project, "there are no prompts")
        round = next((row.round for row in asking_stages(folder.parent) if folder.name.startswith(f"{row.name}-")), 1)
        file = self._file(_asks(tasks[0]), round)
        self._write(file, tasks)
        if round > 1:
            self._judged(tasks, folder)
            return self._left(file, partly=partly)
        if tasks[0].phase == "evaluation" and self._judged(tasks, folder):
            return None
        return waiting_in(self.project, file, len(tasks))

    def judge(self, tasks: Sequence[Task], folder: Path, *, partly: bool = False) -> str | None:
        """Write one file for the labelers of all groups. Those who ranked for training are training labelers (SPEC 2.4)."""
        file = self.project.tasks / f"{folder.name}.jsonl"
        self._write(file, tasks)
        self._judged(tasks, folder)
        ranked = {frozenset(ranking.response_ids) for ranking in records_in(folder, "ranking")}
        done = sum(frozenset(response.id for response in task.responses) in ranked for task in tasks)
        if done == len(tasks) or (partly and done):
            return None
        return (
            f"{done:,} of {len(tasks):,} are ranked: give each labeler a copy of {file}, with ranks and labeler to fill in, "
            f"then `heedful import heedful COPY --project {self.project.folder}`"
        )

    def _file(self, asks: Asked, round: int) -> Path:
        return self.project.tasks / (_FILES[asks] + ("" if round == 1 else f"_{round}") + ".jsonl")

    def _left(self, file: Path, *, partly: bool) -> str | None:
        """Which of a further round's tasks still wait; None if all are ranked, or with ``partly`` at least one."""
        ranked = {frozenset(ranking.response_ids) for ranking in Records.load(self.project.data).rankings.values()}
        tasks = [frozenset(cast("dict[str, Any]", row.value)["response_ids"]) for row in read_rows(file)]
        left = sum(task not in ranked for task in tasks)
        if not left or (partly and left < len(tasks)):
            return None
        return waiting_in(self.project, file, left)

    def _write(self, file: Path, tasks: Sequence[Task]) -> None:
        """Write tasks to a file, and add their responses to the project's records, so that a filled-in task can refer to them.

        A task has no id. The import makes one that depends on the labeler, so several people can do the same task. If the file
        already has these tasks, it is not touched, because someone may be filling it in.
        """
        rows = list(map(_row, tasks))
        if file.is_file() and [_asked(row.value) for row in read_rows(file)] == [_asked(row) for row in rows]:
            return
        with locked(self.project.data):
            there = Records.load(self.project.data).responses
            new = [response for task in tasks for response in task.responses if response.id not in there]
            append_jsonl(self.project.data / file_name("response"), [record_to_json(response) for response in new])
        write_jsonl(file, rows)

    def _judged(self, tasks: Sequence[Task], folder: Path) -> bool:
        records = Records.load(self.project.data)
        shown = {response.id for task in tasks for response in task.responses}
        rankings = [r for r in records.rankings.values() if shown.issuperset(r.response_ids)]
        write_jsonl(folder / "rankings.jsonl", map(record_to_json, rankings))
        ratings = (r for r in records.ratings.values() if r.response_id in shown)
        write_jsonl(folder / "ratings.jsonl", map(record_to_json, ratings))
        return bool(rankings)


def blinded(responses: Sequence[Response], run: str, seed: int) -> list[Response]:
    """The same responses in random order, with ids that name the run and not the model, because labelers judge blindly.

    Responses of another run have other ids, so a judgement of one text never counts for another text.
    """
    order = np.random.default_rng([seed, 6]).permutation(len(responses))
    seen: Counter[str] = Counter()
    renamed: list[Response] = []
    for i in order:
        seen[responses[i].prompt_id] += 1
        renamed.append(replace(responses[i], id=f"{run}-{responses[i].prompt_id}-{seen[responses[i].prompt_id]}"))
    return renamed


def waiting_in(project: Project, file: Path, number: int) -> str:
    """In words, what people have to do with a file of tasks. number: of tasks that wait."""
    how = f"then `heedful import heedful {file} --project {project.folder}`"
    if file.name.startswith(_FILES["demonstrations"]):
        said = f"{number:,} prompts wait for labelers' answers in {file}: fill in text and labeler of each, {how}"
        return f"{said}; or import others: `heedful import FORMAT FILE --project {project.folder}`"
    if file.name.startswith(_FILES["rankings"]):
        return f"{number:,} ranking tasks wait in {file}: fill in ranks and labeler of each, {how}"
    asked = "by labelers who ranked nothing for training: fill in ranks and labeler of each"
    return f"{number:,} tasks wait in {file} for a judgement {asked}, {how}"


def how_to_import(project: Project, missing: str) -> str:
    """In words, what to do if records are missing."""
    return f"{missing}: import some with `heedful import FORMAT FILE --project {project.folder}`"


def _asks(task: Task) -> Asked:
    if task.kind == "demonstrate":
        return "demonstrations"
    return "evaluation by people" if task.phase == "evaluation" else "rankings"


def _asked(row: Any) -> Any:
    """What a row of a task file asks, without the fields to fill in."""
    return (row.get("prompt_id"), row.get("response_ids")) if isinstance(row, dict) else None


def _row(task: Task) -> dict[str, Any]:
    common = {"prompt_id": task.prompt.id, "prompt": task.prompt.text, "labeler": None}
    if task.kind == "demonstrate":
        return {"kind": "demonstration", **common, "text": None}
    return {
        "kind": "ranking",
        **common,
        "response_ids": [r.id for r in task.responses],
        "responses": [r.text for r in task.responses],
        "ranks": None,
        "phase": task.phase,
    }
