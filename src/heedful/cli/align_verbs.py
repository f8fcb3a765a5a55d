"""``heedful align``, ``sweep`` and ``report``: from a base model to an aligned one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from heedful.cli.options import Flag, ProjectFolder, load_project, optional, say
from heedful.errors import ConfigError, UserError

if TYPE_CHECKING:
    from heedful.project.project import Project

MINIATURE_FOLDER = Path("miniature")


@dataclass(frozen=True, kw_only=True)
class Align:
    """Align a base model with people's feedback, and report what changed.

    - SFT, reward model, PPO with pretraining gradients, evaluation, report.html.
    - Without PROJECT: the built-in miniature, in ./miniature; 15 minutes.
    - It stops where people must label first, and says what they have to do.
    - You can interrupt it: run it again, and it continues from its checkpoints.
    - Finished stages run again only if their inputs have changed.
    """

    project: Annotated[Path | None, tyro.conf.Positional, optional("[PROJECT]")] = None
    """A project's folder, as `heedful init` makes it (else the miniature)."""
    seed: Annotated[int | None, optional("INT")] = None
    """Seed of a new miniature (else 0). A project sets its own seed in heedful.toml."""
    with_what_is_there: Flag = False
    """Go on with the labelers' answers so far, even if some tasks are still open."""
    round: Annotated[int | None, optional("N")] = None
    """The last round of feedback to run (else the newest round that has begun). From round 2 on, labelers rank outputs of the
    newest policy, and a new policy is trained on their rankings."""
    until: Annotated[str | None, optional("STAGE")] = None
    """The last stage to run, such as reward (else all). `heedful status` lists the stages; the next `heedful align` goes on."""

    def run(self, console: Console) -> None:
        """Go as far as the data allow; print the report's path if there is one. Raises UserError for a project with --seed."""
        from heedful.align.loop import align

        project = self._miniature() if self.project is None else load_project(self.project)
        if self.project is not None and self.seed is not None:
            raise UserError(
                "a project's seed is in its heedful.toml", got=f"--seed {self.seed}", next_step="set seed under [project]"
            )
        report = align(project, console, partly=self.with_what_is_there, last_round=self.round, until=self.until)
        if report is not None:
            say(console, f"report: {report}")
            say(console, f"numbers: {report.with_name('results.json')}")

    def _miniature(self) -> Project:
        from heedful.miniature.preparation import miniature_project
        from heedful.project.project import Project
        from heedful.ranks.rank_zero import on_rank_zero

        folder = on_rank_zero(lambda: str(miniature_project(MINIATURE_FOLDER, seed=self.seed).folder))
        return Project.load(Path(folder))


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Train one step with several values of one setting, and say which is best.

    - sft          by the lowest loss on validation demonstrations
    - reward       by the accuracy on validation rankings
    - ppo, ppo_ptx by the mean reward on validation prompts
    - Give a grid with --low, --high and --trials, or list the --values.
    - The stages before the step must be done: run `heedful align` first.
    - If interrupted, run it again; a larger grid keeps the finished trials.
    """

    step: Annotated[Literal["sft", "reward", "ppo", "ppo_ptx"], tyro.conf.Positional, tyro.conf.arg(metavar="STEP")]
    """The step to train: sft, reward, ppo or ppo_ptx."""
    field: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FIELD")]
    """Which of the step's settings to vary: a number, for example learning_rate."""
    project: ProjectFolder = Path()
    low: Annotated[float | None, optional("X")] = None
    """Smallest value of the grid."""
    high: Annotated[float | None, optional("X")] = None
    """Largest value of the grid."""
    trials: int = 5
    """How many values, from low to high inclusive."""
    spacing: Literal["geometric", "linear"] = "geometric"
    """Equal ratios between values (a log-linear scan), or equal distances."""
    values: Annotated[tuple[float, ...], optional("X [X ...]")] = ()
    """The values, instead of a grid."""

    def run(self, console: Console) -> None:
        """Train every trial that is not done. Raises ConfigError for half a grid, or for a grid and --values."""
        from heedful.align.sweep import sweep
        from heedful.align.trials import grid

        if (self.low is None) != (self.high is None) or (self.values and self.low is not None):
            raise ConfigError(
                "this is not a grid",
                expected="--low and --high, or --values",
                got="both" if self.values else "one bound",
                next_step="give --low, --high and --trials, or the --values themselves",
            )
        values = list(self.values)
        if self.low is not None and self.high is not None:
            values = grid(self.low, self.high, self.trials, self.spacing)
        report = sweep(load_project(self.project), self.step, self.field, values, console, spacing=self.spacing)
        say(console, f"report: {report}")
        say(console, f"numbers: {report.with_name('results.json')}")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write report.html again from a results.json.

    - Run times come from timings.json in the same folder, if it is there.
    """

    results: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RESULTS")]
    """A results.json."""
    output: Annotated[Path | None, optional("FILE")] = None
    """The page to write (else report.html beside the results)."""

    def run(self, console: Console) -> None:
        """Write the page. Raises MissingError, DataError."""
        from heedful.evaluate.report import write_report
        from heedful.evaluate.results_file import load_results, load_timings

        timings = self.results.with_name("timings.json")
        output = self.output or self.results.with_name("report.html")
        write_report(load_results(self.results), load_timings(timings) if timings.is_file() else None, output)
        say(console, f"report: {output}")
