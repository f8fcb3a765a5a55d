"""One protocol for all kinds of labelers: simulated ones, people in the labeling database, people who fill in task files.

``heedful status`` uses it, so this module does not import torch.
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
        """What results and pages call them."""
        ...

    @property
    def invents_data(self) -> bool:
        """Whether they also invent the prompts, the demonstrations and the pretraining text."""
        ...

    @property
    def answers_at_once(self) -> bool:
        """Whether a stage that asks them has all answers when it ends, so nothing ever waits."""
        ...

    @property
    def groups(self) -> Mapping[str, Group]:
        """Labeler -> group; empty if only a labeler's work determines the group (SPEC 2.4)."""
        ...

    def can_judge(self, prompt: Prompt) -> bool:
        """Whether they can rank answers to a prompt."""
        ...

    def waiting(self, stage: Stage) -> str | None:
        """In words, which of a stage's newest tasks still wait for answers; None if none do. It changes nothing."""
        ...

    def unused(self, records: Records) -> str | None:
        """In words, how many answers are not in the records yet; None if all are."""
        ...

    def take(self, *, partly: bool = False) -> None:
        """Take new answers to earlier runs' tasks, if all are complete. partly: even if some tasks still wait."""
        ...

    def known(self, collect: Path | None = None) -> Records:
        """The project's records, and the answers taken so far. ``collect``: the folder of this run's ranking tasks."""
        ...

    def named(self, responses: Sequence[Response], run: str) -> list[Response]:
        """The responses with the ids and in the order that labelers see."""
        ...

    def ask(self, tasks: Iterable[Task], folder: Path, *, partly: bool = False) -> str | None:
        """Ask for answers. Returns None if all are there, else in words what still waits. Asking again creates no second task.

        The answers are written to a stage's ``folder``: demonstrations.jsonl, or rankings.jsonl and ratings.jsonl. While some
        tasks still wait, they are written only with ``partly``.
        """
        ...

    def judge(self, tasks: Sequence[Task], folder: Path, *, partly: bool = False) -> str | None:
        """Let labelers of each group that the tasks name rate and rank responses, for an evaluation of any models.

        Like :meth:`ask`, but ``folder`` is a run of `heedful evaluate people`, and nothing is trained on its answers.
        """
        ...


def labelers_of(project: Project) -> Labelers:
    """The labelers that heedful.toml names."""
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
