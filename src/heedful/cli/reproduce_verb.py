"""``heedful reproduce``: the paper in miniature, as one command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from heedful.cli.options import Flag, optional, say


@dataclass(frozen=True, kw_only=True)
class Reproduce:
    """Reproduce the paper in miniature: all sizes, figure 1, and the experiments.

    - For each base model that ships with the package: base, prompted base,
      task mixture (FLAN, T0), SFT, PPO and PPO-ptx; then the experiments.
    - It takes a night on two cores; --quick shows in minutes that it works.
    - FOLDER/results/ gets results.json, reproduction.md and all figures. The
      page says plainly where the paper's pattern does not appear.
    - If interrupted, run it again: it continues.
    """

    folder: Annotated[Path, tyro.conf.Positional, optional("[FOLDER]", "Where to work (else reproduction).")] = Path(
        "reproduction"
    )
    quick: Flag = False
    """Train very little: everything runs, but no effect shows."""
    seed: int = 0
    """Seed of prompts, labelers and training."""

    def run(self, console: Console) -> None:
        """Do what is left to do, then write the results. Raises ConfigError, MissingError, BusyError, StorageError."""
        from heedful.experiments import reproduction

        extent = reproduction.QUICK if self.quick else reproduction.FULL
        page = reproduction.reproduce(self.folder, extent, self.seed, console)
        say(console, f"report: {page}")
        say(console, f"numbers: {page.with_name('results.json')}")
