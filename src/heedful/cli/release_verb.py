"""``heedful release``: a project's model in a folder that others can use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console

from heedful.cli.options import PositionalProject, load_project, optional, say
from heedful.errors import MissingError


@dataclass(frozen=True, kw_only=True)
class Release:
    """Put the accepted policy, its card and its reward model into one folder.

    - transformers, vLLM, TRL and `heedful serve` load the folder as it is.
    - The base model's license and notice are included; SHA256SUMS lists all
      files.
    - It refuses a model that is not finished or not evaluated.
    - --push uploads it to a private repository on the Hugging Face hub, with
      the token in HF_TOKEN.
    """

    project: PositionalProject = Path()
    model: Annotated[str | None, optional("NAME")] = None
    """A stage or run, such as ppo, dpo or ppo_ptx-2 (else the policy that the last round accepted, else PPO-ptx)."""
    output: Annotated[Path | None, optional("FOLDER")] = None
    """The folder to write (else release in the project); it replaces an earlier release there."""
    notes: Annotated[Path | None, optional("FILE")] = None
    """Markdown for the card: what the model is meant for."""
    push: Annotated[str | None, optional("OWNER/NAME")] = None
    """The repository to upload to (else nothing is uploaded)."""

    def run(self, console: Console) -> None:
        """Write the release, warn of what it lacks, and upload it if asked. Raises MissingError, DataError, StorageError."""
        from heedful.evaluate.release import push, release
        from heedful.project.files import read_text

        project = load_project(self.project)
        if self.notes is not None and not self.notes.is_file():
            raise MissingError("there is no such file of notes", expected="a Markdown file", got="nothing", where=self.notes)
        notes = None if self.notes is None else read_text(self.notes)
        made = release(project, self.output or project.folder / "release", model=self.model, notes=notes)
        for warning in made.warnings:
            console.print("warning:", style="bold yellow", end=" ")
            say(console, warning)
        say(console, f"release of {made.policy.name}: {made.folder}")
        if self.push is not None:
            say(console, f"uploaded to {push(made.folder, self.push, os.environ.get('HF_TOKEN'))}")
