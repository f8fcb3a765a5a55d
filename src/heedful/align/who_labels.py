"""One protocol for whoever labels: simulated labelers, people in the labeling database, people who fill in task files.

No torch here: ``heedful status`` asks them too.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from heedful.align.labeling_database import LabelingDatabase
from heedful.align.simulated import SimulatedLabelers
from heedful.align.stages import Stage
from heedful.align.task_files import TaskFiles
from heedful.evaluate.results import Group
from heedful.labeling.exchange.asking import Task
from heedful.miniature.invented_world import World
from heedful.miniature.panel import Panel
from heedful.miniature.preparation import WORLD_SEED
from heedful.project.data_folder import Records
from heedful.project.project import Project
from heedful.records import Prompt, Response


class Labelers(Protocol):
    """Who demonstrates, ranks and rates."""

    @property
    def marked(self) -> Literal["people", "simulated"]:
        """What results and pages say of them."""
        ...

    @property
    def invents_data(self) -> bool:
        """Whether they also make up the prompts, the demonstrations and the pretraining text."""
        ...

    @property
    def answers_at_once(self) -> bool:
        """Whether a stage that asks them has all answers when it ends, so that nothing ever waits."""
        ...

    @property
    def groups(self) -> Mapping[str, Group]:
        """Group of each labeler by name; empty if only their work tells (SPEC 2.4)."""
        ...

    def can_judge(self, prompt: Prompt) -> bool:
        """Whether they can rank answers to a prompt."""
        ...

    def waiting(self, stage: Stage) -> str | None:
        """Which of the newest tasks that a stage asked still wait, in words; it changes nothing."""
        ...

    def unused(self, records: Records) -> str | None:
        """How many answers are not among the records yet, in words."""
        ...

    def take(self, *, partly: bool = False) -> None:
        """Take further answers to earlier runs' tasks, if they are complete or with ``partly``."""
        ...

    def known(self, collect: Path | None = None) -> Records:
        """The project's records, and the answers taken so far. ``collect``: the folder of this run's ranking tasks."""
        ...

    def named(self, responses: Sequence[Response], run: str) -> list[Response]:
        """The responses with the ids, and in the order, in which labelers get them."""
        ...

    def ask(self, tasks: Iterable[Task], folder: Path, *, partly: bool = False) -> str | None:
        """Ask for answers; None if all are there, else what still waits, in words. Asking again asks nothing twice.

        The answers go to a stage's ``folder``: demonstrations.jsonl, or rankings.jsonl and ratings.jsonl. While some tasks
        still wait, they go there only with ``partly``.
        """
        ...

    def judge(self, tasks: Sequence[Task], folder: Path, *, partly: bool = False) -> str | None:
        """Let labelers of every group that the tasks name rate and rank responses, for an evaluation of any models.

        As :meth:`ask`, but ``folder`` is a run of `heedful evaluate people`, and its answers reach no training.
        """
        ...


def labelers_of(project: Project) -> Labelers:
    """Who labels: the one place where that is decided."""
    match project.labelers:
        case "simulated":
            return SimulatedLabelers(project, Panel(the_miniature(), seed=project.seed))
        case "files":
            return TaskFiles(project)
        case "people":
            return LabelingDatabase(project)


@functools.cache
def the_miniature() -> World:
    """The world of the built-in miniature."""
    return World(WORLD_SEED)
