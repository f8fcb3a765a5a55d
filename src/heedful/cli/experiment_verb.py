"""``heedful experiment``: the paper's experiments on a project's own model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from heedful.cli.align_verbs import MINIATURE_FOLDER
from heedful.cli.options import Flag, load_project, optional, say
from heedful.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Repeat one of the paper's experiments with a project's own model.

    - `heedful experiment --list` shows the names.
    - The project's stages must be done: run `heedful align` first. Only what
      differs from them is trained, and experiments share what they train.
    - It draws the paper's figure: report.html, results.json and results.csv
      in PROJECT/experiments/NAME/.
    - If interrupted, run it again: it continues.
    - For example: heedful experiment gamma mine --values 0 2 20 27.8 --plan
    """

    name: Annotated[str | None, tyro.conf.Positional, optional("NAME")] = None
    """The experiment."""
    project: Annotated[Path | None, tyro.conf.Positional, optional("[PROJECT]")] = None
    """A project's folder (else the miniature)."""
    list: Flag = False
    """List the experiments."""
    plan: Flag = False
    """Only say what would be trained and how long it would take."""
    values: Annotated[tuple[float, ...], optional("X [X ...]")] = ()
    """The values to try, instead of the experiment's own grid."""
    episodes: Annotated[int | None, optional("N")] = None
    """Episodes to train each policy for (else as in [ppo] of heedful.toml)."""
    seeds: Annotated[int | None, optional("N")] = None
    """How many policies to train for each value, with different seeds (else as in the paper)."""
    prompts: int = 200
    """Validation prompts that each policy answers, at most."""
    samples: int = 2
    """Answers to each of these prompts."""

    def run(self, console: Console) -> None:
        """List, plan or run. Raises ConfigError, MissingError, DataError, BusyError, StorageError."""
        from heedful.experiments.catalogue import LABELER_GROUPS, PROMPT_CHOICE, SUMMARIES, experiment_named

        if self.list:
            for name, summary in SUMMARIES.items():
                say(Console(), f"{name:<18} {summary}")
            return
        if self.name is None:
            raise ConfigError(
                "which experiment?", expected=", ".join(SUMMARIES), got="none", next_step="see `heedful experiment --list`"
            )
        chosen = None if self.name in (LABELER_GROUPS, PROMPT_CHOICE) else experiment_named(self.name)
        project = load_project(Path(MINIATURE_FOLDER) if self.project is None else self.project)
        if self.name == PROMPT_CHOICE:
            from heedful.experiments.prompt_choice import prompt_choice

            if self.values or self.episodes is not None or self.plan:
                raise ConfigError(f"{PROMPT_CHOICE} trains reward models", expected="--seeds only", got="another option")
            say(console, f"numbers: {prompt_choice(project, 3 if self.seeds is None else self.seeds, console)}")
            return
        if chosen is None:
            from heedful.experiments.labeler_groups import labeler_groups, show_labeler_cost

            if self.values or self.episodes is not None:
                raise ConfigError(
                    f"{LABELER_GROUPS} trains reward models",
                    expected="--seeds only",
                    got="--values" if self.values else "--episodes",
                )
            seeds = 3 if self.seeds is None else self.seeds
            if self.plan:
                show_labeler_cost(project, seeds, Console())
                return
            report = labeler_groups(project, seeds, console)
        else:
            from heedful.experiments.experiment_run import Wanted, cost_of, run_experiment, show_cost

            wanted = Wanted(
                values=self.values, episodes=self.episodes, seeds=self.seeds, prompts=self.prompts, samples=self.samples
            )
            if self.plan:
                show_cost(cost_of(project, chosen, wanted, console), Console())
                return
            report = run_experiment(project, chosen, wanted, console)
        say(console, f"report: {report}")
        say(console, f"numbers: {report.with_name('results.json')}")
