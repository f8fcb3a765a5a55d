"""What several verbs share: how options look in the help, the project they name, and plain messages."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console

if TYPE_CHECKING:
    from heedful.evaluate.model_comparison import Control
    from heedful.project.project import Project


def optional(metavar: str, text: str | None = None) -> Any:
    """An optional argument. Its text says what happens without it, so the help shows no "(default: None)"."""
    return tyro.conf.arg(metavar=metavar, help=text, help_behavior_hint="")


Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""A switch: ``--flag``, without a ``--no-flag``."""
ProjectFolder = Annotated[Path, optional("PROJECT", "The project's folder (else the current folder).")]
PositionalProject = Annotated[
    Path, tyro.conf.Positional, optional("[PROJECT]", "The project's folder (else the current folder).")
]
DatabaseOption = Annotated[
    str | None, optional("URL", "The labeling database (else $DATABASE_URL, else labels.sqlite in the project).")
]


def subcommand(verb: type, name: str, *, in_full: bool = True) -> Any:
    """A verb with its description: the whole docstring for the verb's own help, or its first line for a list of verbs."""
    first, *more = (line for line in (inspect.getdoc(verb) or "").splitlines() if line)
    return tyro.conf.subcommand(name, description="\n".join([first, *more] if in_full else [first]))


def controls_of(*, length: bool, style: bool) -> tuple[Control, ...]:
    """The controls that ``--length-control`` and ``--style-control`` switch on."""
    return (*(["length"] if length else []), *(["style"] if style else []))


def load_project(folder: Path) -> Project:
    """Open the project in a folder. Raises MissingError, ConfigError."""
    from heedful.project.project import Project

    return Project.load(folder)


def say(console: Console, message: str) -> None:
    """Print a message unchanged: not wrapped, so that paths stay whole, and with its square brackets.

    Control characters become visible escapes, because a message may quote data that would control the terminal.
    """
    from heedful.project.structure import printable

    console.print(printable(message), markup=False, highlight=False, soft_wrap=True)
