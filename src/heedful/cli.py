"""The command ``heedful``: verbs only. torch is imported by the verbs that need it, when they run."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from heedful import __version__
from heedful.errors import HeedfulError, MissingError, UserError

if TYPE_CHECKING:
    from heedful.store.project import Project

MINIATURE_FOLDER = Path("miniature")
INTERRUPTED = 130

ImportFormat = Literal["oasst", "hh-rlhf", "alpaca", "messages", "trl-preference", "heedful"]
ExportFormat = Literal["trl-sft", "trl-preference", "messages", "heedful"]


@dataclass(frozen=True, kw_only=True)
class Align:
    """Take a base model to an aligned one: SFT, reward model, PPO, PPO-ptx, evaluation, report.

    Without PROJECT it aligns the built-in miniature in ./miniature (some minutes on two CPU cores). Interrupt it whenever you like: run
    again, it continues. Stages whose inputs did not change are not done again.
    """

    project: Annotated[Path | None, tyro.conf.Positional] = None
    """Folder of a project (see `heedful init`)."""
    seed: int | None = None
    """Seed of a new miniature. A project's own is in its heedful.toml."""


@dataclass(frozen=True, kw_only=True)
class Init:
    """Make a project: a folder with heedful.toml, data/, runs/ and tasks/."""

    project: Annotated[Path, tyro.conf.Positional]
    """The folder to make."""
    base_model: str
    """Folder of a causal language model in Hugging Face format (never downloaded)."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """Show what a project holds, which stages are done and what is missing."""

    project: Annotated[Path, tyro.conf.Positional] = Path()
    """The project's folder."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """Read prompts, demonstrations and rankings of a public format into a project; bad rows are kept in rejected.jsonl."""

    format: Annotated[ImportFormat, tyro.conf.Positional]
    """What the file is."""
    file: Annotated[Path, tyro.conf.Positional]
    """The file (.json, .jsonl, also .gz)."""
    project: Path = Path()
    """The project's folder."""
    labeler: str | None = None
    """Whose labels these are, where the file does not say."""
    seed: int = 0
    """Seed of the split into train, valid and test."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a project's records as JSONL that datasets, TRL and other tools read."""

    format: Annotated[ExportFormat, tyro.conf.Positional]
    """What to write."""
    file: Annotated[Path, tyro.conf.Positional]
    """The file to write."""
    project: Path = Path()
    """The project's folder."""
    split: Literal["train", "valid", "test"] | None = None
    """Only this split."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write report.html anew from a results.json (and the timings.json beside it)."""

    results: Annotated[Path, tyro.conf.Positional]
    """A results.json."""
    output: Path | None = None
    """Where to; without it, report.html beside the results."""


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Train a base language model from nothing on plain text: byte-level BPE tokenizer and a GPT-2 model."""

    text: Annotated[Path, tyro.conf.Positional]
    """A .txt or .jsonl file, or a folder of them."""
    output: Path
    """Run folder; the model is in its model/."""
    layers: int = 4
    """Transformer layers."""
    width: int = 256
    """Hidden width."""
    heads: int = 4
    """Attention heads."""
    vocabulary: int = 4_096
    """Tokens of the tokenizer that is trained on the text."""
    context_length: int = 256
    """Context window in tokens."""
    num_tokens: int = 5_000_000
    """Tokens to train on; the text is repeated where it is shorter."""
    batch_tokens: int = 8_192
    """Tokens of one optimiser step."""
    learning_rate: float = 2e-3
    """Peak learning rate."""
    seed: int = 0
    """Seed of weights and order."""
    tensorboard: bool = False
    """Also write TensorBoard events."""


Verb = Align | Init | Status | Import | Export | Report | Pretrain


def main(arguments: list[str] | None = None) -> None:
    """Run one verb. Exits with 2 for the user's mistakes, 1 for failures, 130 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments in (["--version"], ["version"]):
        print(f"heedful {__version__}")
        return
    verb = tyro.cli(  # pyright: ignore[reportCallIssue]
        Verb,  # pyright: ignore[reportArgumentType]
        prog="heedful",
        description="Teach a language model to follow instructions from human feedback: the InstructGPT system, whole.",
        args=arguments or ["--help"],
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )
    console = Console(stderr=True)
    try:
        _RUN[type(verb)](verb, console)
    except HeedfulError as error:
        console.print("[bold red]error:[/bold red]", end=" ")
        console.print(str(error), markup=False, highlight=False)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        console.print("interrupted: run the same command again, it continues from the last checkpoint")
        raise SystemExit(INTERRUPTED) from None


def _align(verb: Align, console: Console) -> None:
    try:
        from heedful.align import align
    except ModuleNotFoundError as error:
        raise _not_installed(error) from None
    project = _miniature(verb, console) if verb.project is None else _project(verb.project)
    if verb.project is not None and verb.seed is not None:
        raise UserError("a project's seed is in its heedful.toml", got=f"--seed {verb.seed}", next_step="set seed under [project]")
    report = align(project, console)
    if report is not None:
        console.print(f"report: {report}", highlight=False)
        console.print(f"numbers: {report.with_name('results.json')}", highlight=False)


def _miniature(verb: Align, console: Console) -> Project:
    from heedful.miniature.project import miniature_project

    return miniature_project(MINIATURE_FOLDER, seed=verb.seed)


def _init(verb: Init, console: Console) -> None:
    from heedful.store.project import init_project

    project = init_project(verb.project, base_model=verb.base_model)
    console.print(f"made the project {project.folder}", highlight=False)
    console.print(f"next: heedful import FORMAT FILE --project {project.folder}, then heedful align {project.folder}", highlight=False)


def _status(verb: Status, console: Console) -> None:
    from heedful.status import show_status

    show_status(_project(verb.project), console)


def _import(verb: Import, console: Console) -> None:
    from heedful.store.importing import import_file

    project = _project(verb.project)
    report = import_file(verb.format, verb.file, project.data, labeler=verb.labeler, seed=verb.seed)
    print(report.summary())


def _export(verb: Export, console: Console) -> None:
    from heedful.store.exporting import export_file

    report = export_file(verb.format, _project(verb.project).data, verb.file, split=verb.split)
    print(report.summary())


def _report(verb: Report, console: Console) -> None:
    try:
        from heedful.evaluate.report import write_report
        from heedful.evaluate.results import load_results, load_timings
    except ModuleNotFoundError as error:
        raise _not_installed(error) from None
    timings = verb.results.with_name("timings.json")
    output = verb.output or verb.results.with_name("report.html")
    write_report(load_results(verb.results), load_timings(timings) if timings.is_file() else None, output)
    console.print(f"report: {output}", highlight=False)


def _pretrain(verb: Pretrain, console: Console) -> None:
    try:
        from heedful.align.pretraining import pretrain_from_text
        from heedful.training.config import PretrainConfig
    except ModuleNotFoundError as error:
        raise _not_installed(error) from None
    config = PretrainConfig(
        num_tokens=verb.num_tokens,
        batch_tokens=verb.batch_tokens,
        context_length=verb.context_length,
        learning_rate=verb.learning_rate,
        seed=verb.seed,
        tensorboard=verb.tensorboard,
    )
    folder = pretrain_from_text(
        verb.text,
        verb.output,
        config,
        layers=verb.layers,
        width=verb.width,
        heads=verb.heads,
        vocabulary=verb.vocabulary,
        console=console,
    )
    console.print(f"model: {folder}", highlight=False)


_RUN = {
    Align: _align,
    Init: _init,
    Status: _status,
    Import: _import,
    Export: _export,
    Report: _report,
    Pretrain: _pretrain,
}


def _project(folder: Path) -> Project:
    from heedful.store.project import Project

    return Project.load(folder)


def _not_installed(error: ModuleNotFoundError) -> HeedfulError:
    if error.name is None or error.name.split(".")[0] == "heedful":
        raise error
    return MissingError(
        "this command needs more than the light installation",
        expected="the extras train and eval",
        got=f"no module {error.name}",
        next_step="pip install 'heedful[train,eval]'",
    )


if __name__ == "__main__":
    main()
