"""A project: a folder with ``heedful.toml``, ``data/`` (records), ``runs/`` (what training made), ``tasks/`` (for labelers)."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from heedful.errors import ConfigError, MissingError, StorageError
from heedful.model_files import how_to_get, is_model, what_is_there
from heedful.project.files import write_atomically
from heedful.project.structure import from_mapping
from heedful.project.text_encoding import check_encoding

CONFIG_FILE = "heedful.toml"

TEMPLATE = """\
# A Heedful project. Values that are not set here have defaults; an unknown table or key is an error.

[project]
name = {name}

# The pretrained model to align: a folder in Hugging Face format, absolute or relative to this file. It is never downloaded.
base_model = {base_model}

# A folder of plain text (.txt, .jsonl) like the text the base model was pretrained on, relative to this file: mixed into PPO
# (PPO-ptx), it keeps the model from unlearning what it knew.
pretraining_text = "data/pretraining"

# The encoding of that text, if it is not UTF-8.
# pretraining_encoding = "windows-1252"

# A smaller base model with the same tokenizer: it goes through PPO-ptx with the same reward model. A table [small_model] gives
# it learning rates and episodes of its own.
# small_model = "models/smaller"

# What the reward model starts from, if not from the SFT model.
# reward_start = "models/tuned-on-public-sets"

# A file of solved language tasks, relative to this file: the base model tuned on them is one more model in the evaluation, as
# FLAN and T0 are in the paper.
# task_mixture = "data/tasks.jsonl"

# What generates: Heedful's own engine, or "vllm" (needs the extra heedful[vllm]).
# engine = "heedful"

# How a conversation becomes tokens: "plain" (the model continues its text, as GPT-3 does), "chat" (the tokenizer's own chat
# template, for a base model that has one), or a file with a chat template in Jinja, absolute or relative to this file.
{template}

# Whether the base model follows instructions already: then it is the SFT model, and no demonstrations are needed.
# skip_sft = false

# Who demonstrates, ranks and rates: "people" in their browsers (`heedful web`), people who fill in "files" of tasks, or
# "simulated" (the built-in miniature's labelers, who can judge only its own prompts).
labelers = "people"

# Where people's work is kept, if not in labels.sqlite in this folder: another file, or a PostgreSQL address.
# database = "postgresql+psycopg://USER@HOST/NAME"

# Where the application finds models to talk to: the address of `heedful serve`, or of any other server with OpenAI's API.
# model_server = "http://127.0.0.1:8001/v1"

# The preset gives the values that the tables below do not set: "paper-1.3B", "paper-6B", "paper-175B", "miniature", or a number
# of parameters, for learning rates and batch sizes of that size: "0.5B", "7B"; "7B-lora" trains adapters.
preset = {preset}

# Seed of all stages.
seed = 0

# The longest texts of all stages, in tokens; longer prompts are left out and counted. `heedful plan` on this folder says what
# your texts need.
# [limits]
# max_prompt_tokens = 1_024
# max_response_tokens = 1_024

# One table for each stage; the values shown are those of the preset. All keys, with unit, default and source:
# docs/configuration.md, or heedful/training/config.py and heedful/presets.py.

{tables}"""

TABLES = """\
# [sft]
# epochs = 16
# learning_rate = 9.65e-6
# batch_size = 32

# [initial_policy]
# epochs = 2
# pretraining_share = 0.1

# [reward]
# learning_rate = 9e-6
# batch_size = 64

# [ppo]
# episodes = 256_000
# kl_coefficient = 0.02
# ptx_coefficient = 27.8

# [collect]
# prompts = 33_207
# smallest_k = 4
# largest_k = 9

# [evaluate]
# prompts = 1_000
# choice_prompts = 500
"""
"""The tables of the preset paper-1.3B."""

Config = TypeVar("Config")
Labelers = Literal["people", "files", "simulated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectSection:
    """The table ``[project]`` of ``heedful.toml``."""

    name: str
    """The project's name in reports."""
    base_model: str
    """Folder of the pretrained model, absolute or relative to the project."""
    pretraining_text: str = "data/pretraining"
    """Folder of pretraining text, relative to the project."""
    pretraining_encoding: str = "utf-8"
    """Encoding of all files of pretraining text: a name that Python knows, such as windows-1252."""
    small_model: str | None = None
    """A smaller base model with the same tokenizer: it goes through PPO-ptx with the same reward model (SPEC 3.3)."""
    reward_start: str | None = None
    """The model that the reward model starts from, with the same tokenizer. Without it: the SFT model (SPEC 3.3, 3.5); the
    paper's final one started from a model tuned on public language sets (SPEC 3.3, C.2)."""
    task_mixture: str | None = None
    """A file of solved language tasks, absolute or relative to the project, in a format that `heedful import` reads: the base
    model tuned on them is compared in the evaluation, as FLAN and T0 are in the paper (SPEC 3.7). For simulated labelers,
    `benchmarks` means tasks of the kinds of the miniature's benchmarks. Without it there is no such model."""
    engine: Literal["heedful", "vllm"] = "heedful"
    """What generates outputs to rank, answers for evaluation and PPO's rollouts (unless `[ppo]` says otherwise): Heedful's
    own engine, or vLLM (needs `heedful[vllm]`; run on CPUs so far, not on a GPU)."""
    template: str = "plain"
    """How a conversation becomes tokens, in training and answers alike: plain (the model continues its text, as GPT-3 does),
    chat (the tokenizer's own chat template), or a file with a chat template in Jinja, absolute or relative to the project."""
    skip_sft: bool = False
    """Whether the base model serves as the SFT model, for a chat model that follows instructions already. Then there is no SFT
    and no initial policy, and no demonstrations are needed."""
    labelers: Labelers = "people"
    """Who demonstrates, ranks and rates: `people` in the labeling database (`heedful web`), people who fill in
    `files` of tasks, or the miniature's `simulated` labelers, who can judge only its own prompts."""
    database: str | None = None
    """The labeling database: a file, absolute or relative to the project, or a PostgreSQL address. Without it: `$DATABASE_URL`,
    else `labels.sqlite` in the project."""
    model_server: str | None = None
    """Address of the models that people talk to in the application: `heedful serve`, or any server with OpenAI's API. Without
    it: `$HEEDFUL_MODEL_SERVER`. An API key for it: `$HEEDFUL_MODEL_SERVER_KEY`."""
    preset: str = "paper-1.3B"
    """What gives the values that heedful.toml does not set: paper-1.3B, paper-6B, paper-175B, miniature, or a number of
    parameters, such as 0.5B or 7B, for learning rates and batch sizes of that size (7B-lora: for adapters)."""
    seed: int = 0
    """Seed of all stages."""
    processes: int = 1
    """How many independent stages, trials or writers of answers run at the same time, each with its share of the cores
    (on a GPU: one). With models of a few million parameters, two processes do nearly twice the work of one; each needs its own
    memory."""

    def __post_init__(self) -> None:
        check_encoding(self.pretraining_encoding, "[project] pretraining_encoding")
        if self.processes < 1:
            raise ConfigError("[project] processes is out of range", expected="1 or more", got=str(self.processes))
        if self.seed < 0:
            raise ConfigError("[project] seed is out of range", expected="0 or above", got=str(self.seed))


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project's folder and its settings."""

    folder: Path
    name: str
    base_model: str
    pretraining_text: Path
    pretraining_encoding: str = "utf-8"
    small_model: str | None = None
    reward_start: str | None = None
    task_mixture: str | None = None
    engine: Literal["heedful", "vllm"] = "heedful"
    template: str = "plain"
    """plain, chat, or the text of the file that heedful.toml names."""
    skip_sft: bool = False
    labelers: Labelers = "people"
    database: str | None = None
    model_server: str | None = None
    preset: str = "paper-1.3B"
    seed: int = 0
    processes: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The other tables of ``heedful.toml``, unparsed: ``config_from_mapping`` builds a configuration from one."""

    @property
    def config_file(self) -> Path:
        """``heedful.toml``."""
        return self.folder / CONFIG_FILE

    @property
    def data(self) -> Path:
        """The records."""
        return self.folder / "data"

    @property
    def runs(self) -> Path:
        """A folder per run."""
        return self.folder / "runs"

    @property
    def tasks(self) -> Path:
        """Tasks that wait for labelers."""
        return self.folder / "tasks"

    def model_folder(self, name: str) -> Path:
        """The folder (or GGUF file) of a model that ``heedful.toml`` names. Raises MissingError if there is no model."""
        folder = self.folder / Path(name).expanduser()
        if not is_model(folder):
            raise MissingError(
                "the base model is not there",
                expected="a folder in Hugging Face format, with config.json, or a GGUF file",
                got=f"{folder}: {what_is_there(folder)}",
                where=self.config_file,
                next_step=how_to_get(name, folder),
            )
        return folder

    @classmethod
    def load(cls, path: str | Path) -> Project:
        """The project in a folder. Raises MissingError if there is none, ConfigError for a bad ``heedful.toml``."""
        folder = Path(path)
        file = folder / CONFIG_FILE
        if not file.is_file():
            raise MissingError(
                f"no {CONFIG_FILE} here",
                expected="the folder of a project",
                got="a folder without it" if folder.is_dir() else "a file" if folder.exists() else "nothing",
                where=folder,
                next_step=f"run `heedful init {folder} --base-model MODEL`",
            )
        tables = load_toml(file)
        section = config_from_mapping(ProjectSection, tables.pop("project", {}), f"{file} [project]")
        return cls(
            folder=folder,
            name=section.name,
            base_model=section.base_model,
            pretraining_text=folder / section.pretraining_text,
            pretraining_encoding=section.pretraining_encoding,
            small_model=section.small_model,
            reward_start=section.reward_start,
            task_mixture=section.task_mixture,
            engine=section.engine,
            template=template_text(section.template, folder),
            skip_sft=section.skip_sft,
            labelers=section.labelers,
            database=section.database,
            model_server=section.model_server,
            preset=section.preset,
            seed=section.seed,
            processes=section.processes,
            settings=tables,
        )


def init_project(
    path: str | Path, *, base_model: str, template: str = "plain", preset: str = "paper-1.3B", tables: str = TABLES
) -> Project:
    """Make a project in a new or existing folder.

    template: plain, chat, or the path of a Jinja file, absolute or relative to the folder.
    tables: the tables of the stages in heedful.toml, as comments.
    Raises ConfigError if the folder holds a project already or the template is not a file, StorageError if it cannot be
    written.
    """
    folder = Path(path)
    if (folder / CONFIG_FILE).exists():
        raise ConfigError(
            "the folder holds a project already",
            expected=f"a folder without {CONFIG_FILE}",
            got=f"one with {CONFIG_FILE}",
            where=folder,
            next_step="give another folder, or go on with this project: `heedful status " + str(folder) + "`",
        )
    if not base_model.strip():
        raise ConfigError("no base model", expected="a folder or name of a pretrained model", got=repr(base_model))
    template_text(template, folder)
    try:
        for name in ("data", "runs", "tasks"):
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            "the project could not be made",
            expected="a folder that may be written to",
            got=error.strerror or str(error),
            where=folder,
        ) from error
    # Last, so that a folder where this failed half-way holds no project and init can be run again.
    name = folder.resolve().name or "project"
    line = f"template = {_toml_string(template)}"
    text = TEMPLATE.format(
        name=_toml_string(name),
        base_model=_toml_string(base_model),
        template=f"# {line}" if template == "plain" else line,
        preset=_toml_string(preset),
        tables=tables,
    )
    write_atomically(folder / CONFIG_FILE, text)
    return Project.load(folder)


def has_chat_template(model: Path) -> bool:
    """Whether the tokenizer in a model's folder has a chat template."""
    if (model / "chat_template.jinja").is_file():
        return True
    try:
        settings = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and bool(settings.get("chat_template"))


def template_text(given: str, folder: Path = Path()) -> str:
    """The template itself: plain, chat, or the text of a file, absolute or relative to the folder. Raises ConfigError."""
    if given in ("plain", "chat"):
        return given
    file = folder / Path(given).expanduser()
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the template cannot be read",
            expected='template = "plain", "chat" or a text file with a chat template in Jinja',
            got=f"{given!r}: {getattr(error, 'strerror', None) or error}",
            where=file,
            next_step="write the template there, or set template in heedful.toml to plain or chat",
        ) from error
    if "{" not in text:
        raise ConfigError(
            "the template is not a chat template",
            expected="Jinja, with {{ }} or {% %}, which writes the messages",
            got=repr(text[:80]),
            where=file,
            next_step="docs/templates.md has examples",
        )
    return text


def _toml_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML's basic strings are JSON's but for DEL


def load_toml(path: str | Path) -> dict[str, Any]:
    """A TOML file as a dict. Raises MissingError; ConfigError naming the line for a file that is not TOML."""
    path = Path(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        at = int(line.group(1)) if line else len(path.read_text(encoding="utf-8").splitlines())
        raise ConfigError(
            f"{path.name} is not TOML",
            expected="key = value, under [tables]",
            got=str(error),
            where=f"{path}:{at}",
            next_step=f"correct line {at}",
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name} is not UTF-8 text", expected="UTF-8", got=str(error), where=path) from None
    except OSError as error:
        raise MissingError(
            f"{path.name} cannot be read", expected="a file", got=error.strerror or str(error), where=path
        ) from None


def config_from_mapping(cls: type[Config], mapping: object, where: str | Path) -> Config:
    """A configuration dataclass from a mapping, strictly: nothing is coerced (except an integer to float and a text to Path).

    Raises ConfigError for an unknown key (naming the nearest), a missing key, a wrong type; what the class itself raises for a
    value out of range keeps its type and gains ``where``.
    """
    return from_mapping(cls, mapping, what="the configuration", where=where, error=ConfigError)
