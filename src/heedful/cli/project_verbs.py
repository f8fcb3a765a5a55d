"""``heedful init``, ``status``, ``import`` and ``export``: a project's folder and its records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from heedful.cli.options import Flag, PositionalProject, ProjectFolder, load_project, optional, say


@dataclass(frozen=True, kw_only=True)
class Init:
    """Create a project: a folder with heedful.toml, data/, runs/ and tasks/.

    - Next: `heedful import` adds people's labels, then `heedful align` trains.
    - heedful.toml holds the settings, with a comment that explains each.
    """

    project: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PROJECT")]
    """The folder to create."""
    base_model: Annotated[str, tyro.conf.arg(metavar="FOLDER")]
    """A folder with a causal language model in Hugging Face format; it is never downloaded."""
    template: Annotated[str | None, optional("plain|chat|FILE")] = None
    """How a conversation becomes tokens: plain, chat (the model's own chat template)
    or a Jinja file (else chat if the model has a template)."""

    lora: Flag = False
    """Choose settings that train adapters (LoRA) instead of all weights."""

    def run(self, console: Console) -> None:
        """Create the folder; warn if the model is missing. Raises ConfigError for an existing project or a bad template."""
        from heedful.model_files import how_to_get, is_model, what_is_there
        from heedful.presets import tables_as_comments
        from heedful.project.project import has_chat_template, init_project

        given = self.base_model.strip()
        # People give a path relative to the current folder. The file gets the absolute path, so align works from any folder.
        base_model = Path(given).expanduser().absolute() if given else None
        template = self.template or ("chat" if base_model is not None and has_chat_template(base_model) else "plain")
        if template not in ("plain", "chat"):
            template = str(Path(template).expanduser().absolute())
        preset, why = _preset_for(base_model, lora=self.lora)
        project = init_project(
            self.project,
            base_model="" if base_model is None else str(base_model),
            template=template,
            preset=preset,
            tables=tables_as_comments(preset),
        )
        say(console, f"made the project {project.folder}")
        say(console, why)
        if base_model is not None:
            _show_template(base_model, project.template, console)
        if base_model is not None and not is_model(base_model):
            console.print("warning:", style="bold yellow", end=" ")
            say(
                console,
                f"there is no model in {base_model} yet ({what_is_there(base_model)}): "
                f"put it there, or change base_model in {project.config_file}; {how_to_get(given, base_model)}",
            )
        say(console, f"next: heedful import FORMAT FILE --project {project.folder}, then heedful align {project.folder}")


def _show_template(base_model: Path, template: str, console: Console) -> None:
    """Say which template was chosen, and show one example as the model reads it, with special tokens visible."""
    from importlib.util import find_spec

    from heedful.errors import HeedfulError

    if template == "plain":
        say(console, "template: plain (the model continues the text of a conversation)")
        return
    own = template == "chat"
    say(console, "template: " + ("chat (the one in the model's folder)" if own else "the one in the file"))
    if find_spec("transformers") is None or not (base_model / "config.json").is_file():
        return
    from heedful.model.encoding import rendered_example
    from heedful.model.loading import load_tokenizer

    try:
        prompt, response = rendered_example(load_tokenizer(base_model), template)
    except HeedfulError as error:
        console.print("warning:", style="bold yellow", end=" ")
        say(console, f"the template cannot be used yet: {error}")
        return
    say(console, "an example, as the model reads it:")
    for line in prompt.splitlines():
        say(console, f"  | {line}")
    say(console, f"and the response that it learns from, with its end token: {response!r}")


def _preset_for(base_model: Path | None, *, lora: bool) -> tuple[str, str]:
    """The preset for the model's size, and a sentence that says why it was chosen."""
    from heedful.model_files import count_parameters
    from heedful.presets import sized_name

    parameters = None if base_model is None else count_parameters(base_model)
    if parameters is None:
        known = sized_name(1.3e9, lora=True) if lora else "paper-1.3B"
        return known, f'preset = "{known}": the size of the model is not known; set a preset for its size in heedful.toml'
    name = sized_name(parameters, lora=lora)
    return (
        name,
        f'preset = "{name}": {parameters:,} parameters; comments in heedful.toml say where its learning rates come from',
    )


@dataclass(frozen=True, kw_only=True)
class Status:
    """Show what a project holds, which stages are done and what comes next."""

    project: PositionalProject = Path()

    def run(self, console: Console) -> None:
        """Print the tables."""
        from heedful.align.status import show_status

        show_status(load_project(self.project), Console())


@dataclass(frozen=True, kw_only=True)
class Import:
    """Read prompts, demonstrations and rankings from a file into a project.

    - auto            the format that fits the file's rows
    - messages        chat messages: demonstrations
    - alpaca, dolly   instruction, input, output: demonstrations
    - trl-preference  prompt, chosen, rejected: rankings of two
    - hh-rlhf         HH-RLHF pairs (chosen, rejected): rankings of two
    - responses       a prompt with several responses, ranked, rated or neither
    - oasst           Open-Assistant trees: demonstrations and rankings
    - ultrafeedback, nectar, helpsteer, shp, pku-saferlhf,
      summarize-from-feedback: the files of these data sets
    - heedful         our own records, and filled-in tasks from tasks/
    - Importing the same file again adds nothing.
    - Rows that cannot be used are counted and kept in data/rejected.jsonl.
    """

    format: Annotated[
        Literal[
            "auto",
            "messages",
            "alpaca",
            "dolly",
            "trl-preference",
            "hh-rlhf",
            "responses",
            "oasst",
            "ultrafeedback",
            "nectar",
            "helpsteer",
            "shp",
            "pku-saferlhf",
            "summarize-from-feedback",
            "heedful",
        ],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="FORMAT"),
    ]
    """The file's format, as listed above; auto detects it."""
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The file (.jsonl, .json, also .gz; .csv, .tsv, .parquet)."""
    project: ProjectFolder = Path()
    labeler: Annotated[str | None, optional("NAME")] = None
    """Whose labels these are, if the file does not say (else the format's name)."""
    split_by: Literal["user", "prompt"] = "user"
    """user keeps all prompts of a user in one split; prompt ignores users, for data of a single user."""
    seed: int = 0
    """Seed that splits new prompts into train, valid and test."""

    def run(self, console: Console) -> None:
        """Add what is new and print the counts. Raises MissingError, DataError."""
        from heedful.project.importing import import_file

        project = load_project(self.project)
        report = import_file(self.format, self.file, project.data, labeler=self.labeler, split_by=self.split_by, seed=self.seed)
        say(Console(), report.summary())


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a project's records as JSONL for other tools.

    - trl-sft         prompt and completion of each demonstration
    - trl-preference  prompt, chosen and rejected of each comparison
    - messages        demonstrations as chat messages
    - heedful         all records, for `heedful import heedful` elsewhere
    """

    format: Annotated[
        Literal["trl-sft", "trl-preference", "messages", "heedful"], tyro.conf.Positional, tyro.conf.arg(metavar="FORMAT")
    ]
    """What to write: trl-sft, trl-preference, messages or heedful."""
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The file to write."""
    project: ProjectFolder = Path()
    split: Annotated[Literal["train", "valid", "test", "each"] | None, optional("SPLIT")] = None
    """Only train, valid or test; each: one file per split (else all in one file)."""

    def run(self, console: Console) -> None:
        """Write the file and print the counts."""
        from heedful.project.exporting import export_file

        project = load_project(self.project)
        report = export_file(self.format, project.data, self.file, split=self.split, template=project.template)
        say(Console(), report.summary())
