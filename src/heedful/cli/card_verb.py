"""``heedful card``: a model's card for the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console

from heedful.cli.options import PositionalProject, load_project, optional, say
from heedful.errors import MissingError


@dataclass(frozen=True, kw_only=True)
class Card:
    """Write a model's card in Hugging Face's format, filled from its lineage.

    - Base model and its license, data, labelers, instructions, settings,
      results with intervals, limits, how to load it.
    - Nothing is made up: where a fact is unknown, the card says so.
    """

    project: PositionalProject = Path()
    model: str = "ppo_ptx"
    """A model that the evaluation names (its newest run is used), or a run such as ppo_ptx-1."""
    output: Annotated[Path | None, optional("FILE")] = None
    """The file to write (else README.md in the run's folder)."""
    benchmarks: Annotated[Path | None, optional("OUT")] = None
    """The --out folder of `heedful evaluate benchmarks`; its scores go into the card."""
    notes: Annotated[Path | None, optional("FILE")] = None
    """Markdown on what the model is meant for; it is copied unchanged."""

    def run(self, console: Console) -> None:
        """Write the card. Raises MissingError, DataError, StorageError."""
        from heedful.evaluate.card_facts import card_facts, run_of_model
        from heedful.evaluate.model_card import CARD, write_card
        from heedful.project.files import read_text

        project = load_project(self.project)
        if self.notes is not None and not self.notes.is_file():
            raise MissingError("there is no such file of notes", expected="a Markdown file", got="nothing", where=self.notes)
        notes = None if self.notes is None else read_text(self.notes)
        facts = card_facts(project, run_of_model(project, self.model), benchmarks=self.benchmarks)
        output = self.output or facts.folder.parent / CARD  # in the model's own folder it would change the model's digest
        write_card(facts, output, notes=notes)
        say(console, f"model card: {output}")
