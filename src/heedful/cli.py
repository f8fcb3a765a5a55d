"""The command ``heedful``: verbs only. torch is imported by the verbs that need it, when they run."""

from __future__ import annotations

import errno
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, Union

import tyro
from rich.console import Console
from rich.table import Table

from heedful import __version__
from heedful.errors import ConfigError, HeedfulError, MissingError, ModelError, StorageError, UserError

if TYPE_CHECKING:
    from heedful.project.project import Project

MINIATURE_FOLDER = Path("miniature")
INTERRUPTED = 130

ImportFormat = Literal["oasst", "hh-rlhf", "alpaca", "messages", "trl-preference", "heedful"]
PromptFormat = Literal["prompts", "chat", "api"]
ExportFormat = Literal["trl-sft", "trl-preference", "messages", "heedful"]

DESCRIPTION = """\
Teach a language model to follow instructions from human feedback: InstructGPT.
  heedful align                              the built-in miniature, in minutes
  heedful init mine --base-model FOLDER      or a project of your own:
  heedful import alpaca FILE --project mine  ... people's data,
  heedful prompts import api LOG --project mine  ... users' prompts,
  heedful web mine                           ... people label here,
  heedful align mine                         ... as far as the data allow,
  heedful status mine                        ... what is there, what is missing"""


def _shown(metavar: str) -> Any:
    """How an option that may be left out is shown: the field's text says what happens then, not "(default: None)"."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


def _description(verb: type, in_full: bool) -> str:
    first, *more = (line for line in (inspect.getdoc(verb) or "").splitlines() if line)
    return "\n".join([first, *more] if in_full else [first])


@dataclass(frozen=True, kw_only=True)
class Align:
    """Take a base model to an aligned one, and report what changed.

    - SFT, reward model, PPO with pretraining gradients, evaluation, report.html.
    - Without PROJECT: the built-in miniature, in ./miniature, in some minutes.
    - It stops where people have to label first, and says what they have to do.
    - Interrupt it when you like: run again, it continues from its checkpoints.
    - Stages whose inputs did not change are not done again.
    """

    project: Annotated[Path | None, tyro.conf.Positional, _shown("[PROJECT]")] = None
    """Folder of a project (see `heedful init`); none: the miniature."""
    seed: Annotated[int | None, _shown("INT")] = None
    """Seed of a new miniature (0 where not given). A project's own is in its heedful.toml."""


@dataclass(frozen=True, kw_only=True)
class Init:
    """Make a project: a folder with heedful.toml, data/, runs/ and tasks/.

    - Next: `heedful import` people's labels into it, then `heedful align` it.
    - heedful.toml holds the settings; a comment there explains each.
    """

    project: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PROJECT")]
    """The folder to make."""
    base_model: Annotated[str, tyro.conf.arg(metavar="FOLDER")]
    """A causal language model in Hugging Face format; it is never downloaded."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """Show what a project holds, which stages are done and what comes next."""

    project: Annotated[Path, tyro.conf.Positional, _shown("[PROJECT]")] = Path()
    """The project's folder; none: the current folder."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """Read prompts, demonstrations and rankings from a file into a project.

    - oasst           Open-Assistant trees: demonstrations and rankings
    - hh-rlhf         HH-RLHF pairs (chosen, rejected): rankings of two
    - alpaca          instruction, input, output: demonstrations
    - messages        chat messages: demonstrations
    - trl-preference  prompt, chosen, rejected: rankings of two
    - heedful         our own records, and filled-in tasks from tasks/
    - A second import of the same file adds nothing.
    - Rows that cannot be used are counted and kept in data/rejected.jsonl.
    """

    format: Annotated[ImportFormat, tyro.conf.Positional, tyro.conf.arg(metavar="FORMAT")]
    """What the file is: oasst, hh-rlhf, alpaca, messages, trl-preference or heedful."""
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The file (.json, .jsonl, also .gz)."""
    project: Annotated[Path, _shown("PROJECT")] = Path()
    """The project's folder (else the current folder)."""
    labeler: Annotated[str | None, _shown("NAME")] = None
    """Whose labels these are, where the file does not say (else the format's name)."""
    seed: int = 0
    """Seed of the split of new prompts into train, valid and test."""


@dataclass(frozen=True, kw_only=True)
class PromptsImport:
    """Read users' prompts from a file into a project, cleaned.

    - prompts  rows with prompt and owner (JSONL, CSV, TSV, Parquet)
    - chat     conversations: the prompt is all up to the user's last turn
    - api      the log of the public API: only requests with consent
    - Left out, each with its reason in data/rejected.jsonl: personal data in
      train, duplicates, what is too long, what is over an owner's cap.
    - An owner's prompts all go to one split, for ever.
    - A second import of the same file adds nothing.
    """

    format: Annotated[PromptFormat, tyro.conf.Positional, tyro.conf.arg(metavar="FORMAT")]
    """What the file is: prompts, chat or api."""
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The file (.jsonl, .json, also .gz; .csv, .tsv, .parquet)."""
    project: Annotated[Path, _shown("PROJECT")] = Path()
    """The project's folder (else the current folder)."""
    source: Literal["customer", "labeler", "imported"] = "imported"
    """Where the prompts come from, where a row does not say (api: customers)."""
    tokenizer: Annotated[Path | None, _shown("FOLDER")] = None
    """A model's folder, or its tokenizer.json: lengths are in its tokens (else in words)."""
    max_length: int = 1_024
    """Longest prompt, in tokens or words."""
    max_per_owner: int = 200
    """Most prompts of one user or organisation."""
    region: str = "US"
    """Country whose phone numbers may lack the country code."""
    names: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """People's names are personal data too: found by Presidio (heedful[names])."""


@dataclass(frozen=True, kw_only=True)
class PromptsStats:
    """Print the paper's Tables 1 and 6 to 11 for a project's prompts.

    - Use cases, sizes by split and source, what labelers say of the prompts,
      prompts per owner, lengths, languages.
    - The same tables with figures go to an HTML page.
    """

    project: Annotated[Path, tyro.conf.Positional, _shown("[PROJECT]")] = Path()
    """The project's folder; none: the current folder."""
    tokenizer: Annotated[Path | None, _shown("FOLDER")] = None
    """A model's folder, or its tokenizer.json: lengths are in its tokens (else in words)."""
    page: Annotated[Path | None, _shown("FILE")] = None
    """The HTML page to write (else prompts.html in the project)."""


@dataclass(frozen=True, kw_only=True)
class PromptsForget:
    """Erase everything of one owner from a project's records.

    - Prompts, and all responses, demonstrations, rankings, ratings and tasks.
    - A tombstone stays, so that a later import does not bring them back.
    - Lists the runs that used them. It cannot be undone.
    """

    owner: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OWNER")]
    """The owner's id, as in the key user of data/prompts.jsonl."""
    project: Annotated[Path, _shown("PROJECT")] = Path()
    """The project's folder (else the current folder)."""


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Take in users' prompts, show what there is, forget an owner.

    - import  read prompts, chats or the API's log, cleaned
    - stats   the paper's tables for your prompts
    - forget  erase everything of one owner
    - `heedful prompts import --help` and so on tell more.
    """

    action: (
        Annotated[PromptsImport, tyro.conf.subcommand("import", description=_description(PromptsImport, in_full=True))]
        | Annotated[PromptsStats, tyro.conf.subcommand("stats", description=_description(PromptsStats, in_full=True))]
        | Annotated[PromptsForget, tyro.conf.subcommand("forget", description=_description(PromptsForget, in_full=True))]
    )


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a project's records as JSONL for other tools.

    - trl-sft         prompt and completion of each demonstration
    - trl-preference  prompt, chosen and rejected of each comparison
    - messages        demonstrations as chat messages
    - heedful         all records, for `heedful import heedful` elsewhere
    """

    format: Annotated[ExportFormat, tyro.conf.Positional, tyro.conf.arg(metavar="FORMAT")]
    """What to write: trl-sft, trl-preference, messages or heedful."""
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The file to write."""
    project: Annotated[Path, _shown("PROJECT")] = Path()
    """The project's folder (else the current folder)."""
    split: Annotated[Literal["train", "valid", "test"] | None, _shown("SPLIT")] = None
    """Only this split: train, valid or test (else all)."""


@dataclass(frozen=True, kw_only=True)
class Web:
    """Serve the labeling application: people write, rank and rate in a browser.

    - The first start prints a link to join with as admin; invite the others
      from the page People.
    - Labels are kept in labels.sqlite in the project's folder, or in
      PostgreSQL by --database.
    - Beyond this machine it listens only with TLS: a certificate, or a proxy.
    - docs/web.md tells more.
    """

    project: Annotated[Path, tyro.conf.Positional, _shown("[PROJECT]")] = Path()
    """The project's folder, or any folder to keep the labels in; none: the current folder."""
    database: Annotated[str | None, _shown("URL")] = None
    """postgresql+psycopg://USER:PASSWORD@HOST/NAME, or a SQLite file (else $DATABASE_URL, else labels.sqlite)."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0: all of this machine."""
    port: int = 8000
    """Port to listen on; 0: one that is free."""
    url: Annotated[str | None, _shown("URL")] = None
    """How people reach it, for links: https://labels.example.org (else made from host and port)."""
    certificate: Annotated[Path | None, _shown("FILE")] = None
    """TLS certificate in PEM format, with its chain."""
    certificate_key: Annotated[Path | None, _shown("FILE")] = None
    """The certificate's key."""
    tls_proxy: Annotated[str | None, _shown("ADDRESS")] = None
    """Address of a reverse proxy that speaks TLS with browsers; its X-Forwarded-For is believed."""
    send_passwords_unencrypted: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Listen beyond this machine without TLS: everybody on the network can read passwords and labels."""


_DATABASE = _shown("URL")


@dataclass(frozen=True, kw_only=True)
class StoreBackup:
    """Copy the labels to a file while people go on working.

    - The file is one consistent state, checked; half of one is never left.
    - For SQLite. PostgreSQL has pg_dump.
    """

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The backup to write; an old one of this name is replaced."""
    project: Annotated[Path, _shown("PROJECT")] = Path()
    """The project's folder (else the current folder)."""
    database: Annotated[str | None, _DATABASE] = None
    """The labeling database (else $DATABASE_URL, else labels.sqlite in the project)."""


@dataclass(frozen=True, kw_only=True)
class StoreRestore:
    """Put a backup in place of the labels. Stop the server first.

    - A database that is there is replaced only with --overwrite, and kept
      beside the new one as labels.sqlite.before-restore.
    """

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The backup."""
    project: Annotated[Path, _shown("PROJECT")] = Path()
    """The project's folder (else the current folder)."""
    database: Annotated[str | None, _DATABASE] = None
    """Where to (else $DATABASE_URL, else labels.sqlite in the project)."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace the database that is there."""


@dataclass(frozen=True, kw_only=True)
class StoreCheck:
    """Check that the labels are whole.

    - The file, references, counters, and that every answer's rows are what its
      raw answer says.
    - Exit code 1 if something is wrong.
    """

    project: Annotated[Path, _shown("PROJECT")] = Path()
    """The project's folder (else the current folder)."""
    database: Annotated[str | None, _DATABASE] = None
    """The labeling database (else $DATABASE_URL, else labels.sqlite in the project)."""


@dataclass(frozen=True, kw_only=True)
class StoreCopy:
    """Copy the labels from one database to another: SQLite, PostgreSQL or back.

    - The target must be empty. Counts and a checksum of each table are compared
      before anything is kept.
    - A path, or postgresql+psycopg://USER:PASSWORD@HOST/NAME.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FROM")]
    """The database to copy."""
    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TO")]
    """The empty database."""


@dataclass(frozen=True, kw_only=True)
class StoreImport:
    """Bring a project's prompts, responses and waiting tasks to the labelers.

    - Tasks are those that `heedful align` left in the project's tasks/.
    - A second import adds only what is new.
    """

    project: Annotated[Path, _shown("PROJECT")] = Path()
    """The project's folder (else the current folder)."""
    database: Annotated[str | None, _DATABASE] = None
    """The labeling database (else $DATABASE_URL, else labels.sqlite in the project)."""
    overlap: int = 1
    """Labelers per task."""
    demonstrations: int = 0
    """Also make this many tasks to demonstrate prompts that nobody has demonstrated."""


@dataclass(frozen=True, kw_only=True)
class StoreExport:
    """Bring the labelers' answers into the project's data, for `heedful align`.

    - Labelers are named by pseudonym; late answers are marked.
    - A second export adds only what is new.
    """

    project: Annotated[Path, _shown("PROJECT")] = Path()
    """The project's folder (else the current folder)."""
    database: Annotated[str | None, _DATABASE] = None
    """The labeling database (else $DATABASE_URL, else labels.sqlite in the project)."""
    file: Annotated[Path | None, _shown("FILE")] = None
    """Only write the records to this file (JSONL)."""
    surplus: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also answers that came late when others had answered enough."""


@dataclass(frozen=True, kw_only=True)
class Store:
    """The labeling database: backup, restore, check, copy, import and export.

    - `heedful store VERB --help` says more of each.
    """

    action: (
        Annotated[StoreBackup, tyro.conf.subcommand("backup", description=_description(StoreBackup, in_full=True))]
        | Annotated[StoreRestore, tyro.conf.subcommand("restore", description=_description(StoreRestore, in_full=True))]
        | Annotated[StoreCheck, tyro.conf.subcommand("check", description=_description(StoreCheck, in_full=True))]
        | Annotated[StoreCopy, tyro.conf.subcommand("copy", description=_description(StoreCopy, in_full=True))]
        | Annotated[StoreImport, tyro.conf.subcommand("import", description=_description(StoreImport, in_full=True))]
        | Annotated[StoreExport, tyro.conf.subcommand("export", description=_description(StoreExport, in_full=True))]
    )


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write report.html anew from a results.json.

    - Run times come from the timings.json beside it, where there is one.
    """

    results: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RESULTS")]
    """A results.json."""
    output: Annotated[Path | None, _shown("FILE")] = None
    """Where to (else report.html beside the results)."""


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Train a base language model from nothing on plain text.

    - For trying things out where there is no model to start from.
    - A byte-level BPE tokenizer and a GPT-2 model, both trained on the text.
    - Interrupted, it continues when the same command is run again.
    """

    text: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TEXT")]
    """A .txt or .jsonl file, or a folder of them."""
    output: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Run folder to write; the model will be in FOLDER/model."""
    layers: int = 4
    """Transformer layers."""
    width: int = 256
    """Hidden width."""
    heads: int = 4
    """Attention heads; they divide the width."""
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
    tensorboard: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also write TensorBoard events."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Show what each step needs before you start: memory on each GPU, time, compute.

    - Models: gpt3-1.3b, gpt3-6b, gpt3-175b, miniature-small, -medium, -large,
      or a folder with a config.json. No weights are read or downloaded.
    - It says what fits and what to change where something does not.
    - Compute is in petaflop/s-days, for the true number of tokens and as the
      paper counts it: each sequence a full context.
    - docs/planning.md has the formulae and what was measured.
    """

    model: str
    """The policy: one of the names above, or a folder in Hugging Face format."""
    reward_model: Annotated[str | None, _shown("MODEL")] = None
    """What reward model and value function are made from (else gpt3-6b for the paper's sizes, else the model)."""
    preset: Annotated[str | None, _shown("NAME")] = None
    """Settings: paper-1.3B, paper-6B, paper-175B or miniature (else those of the model's size)."""
    gpus: int = 1
    """GPUs over which weights, gradients and optimiser are split; 0: this machine's CPU and memory."""
    gpu: Literal["a100", "h100", "h200"] = "h100"
    """Which GPU: a100 (80 GB), h100 (80 GB) or h200 (141 GB)."""
    utilization: float = 0.4
    """Share of the GPU's bf16 operations a second that training reaches."""
    prompt_tokens: Annotated[float | None, _shown("TOKENS")] = None
    """Mean length of a prompt, for time and true compute (else a quarter of the limit)."""
    response_tokens: Annotated[float | None, _shown("TOKENS")] = None
    """Mean length of a response (else a quarter of the limit)."""
    demonstrations: Annotated[int | None, _shown("INT")] = None
    """Demonstrations for SFT (else the paper's 12,725, or the miniature's 600)."""
    rankings: Annotated[int | None, _shown("INT")] = None
    """Ranked prompts for the reward model (else the preset's: the paper's 33,207)."""
    lora_rank: Annotated[int | None, _shown("INT")] = None
    """Train adapters of this rank in all steps (else the preset's: 0, all weights)."""
    activation_checkpointing: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Plan with activations that are computed again in the backward pass."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON: bytes, operations and seconds."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Train one step with several values of one field, and say which is best.

    - sft          by the lowest loss on validation demonstrations
    - reward       by the accuracy on validation rankings
    - ppo, ppo_ptx by the mean reward on validation prompts
    - Grid: --low, --high and --trials, or the --values themselves.
    - Stages before the step must be done: run `heedful align` first.
    - Interrupted, it continues; done trials stay when the grid grows.
    """

    step: Annotated[Literal["sft", "reward", "ppo", "ppo_ptx"], tyro.conf.Positional, tyro.conf.arg(metavar="STEP")]
    """The step to train: sft, reward, ppo or ppo_ptx."""
    field: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FIELD")]
    """A number among its settings, for example learning_rate."""
    project: Annotated[Path, _shown("PROJECT")] = Path()
    """The project's folder (else the current folder)."""
    low: Annotated[float | None, _shown("X")] = None
    """Smallest value of the grid."""
    high: Annotated[float | None, _shown("X")] = None
    """Largest value of the grid."""
    trials: int = 5
    """Values from low to high, both among them."""
    spacing: Literal["geometric", "linear"] = "geometric"
    """Equal ratios (a log-linear scan) or equal distances."""
    values: Annotated[tuple[float, ...], _shown("X [X ...]")] = ()
    """The values, instead of a grid."""


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Check that a model computes here what it computes in plain transformers.

    - Log-probs, scores and values must not depend on the batch, its order,
      padding or layout; cached decoding must be the full forward; a saved
      model must come back.
    - Prints the largest differences and their limits; exit code 1 if one fails.
    - Training runs the quick part by itself and does not start where it fails.
    """

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A causal language model or reward model in Hugging Face format."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """The type to compute in; float32 is always checked too."""


Verb = Align | Init | Status | Import | Prompts | Export | Web | Store | Report | Pretrain | Plan | Sweep | Doctor


def main(arguments: list[str] | None = None) -> None:
    """Run one verb. Exits with 2 for the user's mistakes, 1 for failures, 130 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not _under_torchrun():
        _main(arguments, leads=True)
        return
    from heedful.ranks.collectives import world
    from heedful.ranks.rank_zero import ended, speaks

    try:
        try:
            leads = world().leads
        except HeedfulError as error:
            _complain(str(error), error.exit_code)
        _main(arguments, leads=leads)
        ended(0)
    except SystemExit as stop:
        ended(stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1)
        raise
    except Exception:  # a mistake in Heedful
        if speaks():
            traceback.print_exc()
        ended(HeedfulError.exit_code)
        raise SystemExit(HeedfulError.exit_code) from None


def _main(arguments: list[str], *, leads: bool) -> None:
    if arguments in (["--version"], ["version"]):
        if leads:
            print(f"heedful {__version__}")
        return
    try:
        verb = _parsed(arguments, leads=leads)
        console = Console(stderr=True, quiet=not leads)
        _refuse_torchrun(verb)
        _RUN[type(verb)](verb, console)
        sys.stdout.flush()  # so that a closed pipe is noticed here, not when Python ends
    except HeedfulError as error:
        _complain(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        missing = _not_installed(error)
        _complain(str(missing), missing.exit_code)
    except BrokenPipeError:
        # Python flushes again when it ends: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _complain("what reads the output has ended (broken pipe): the rest of it was not printed", 1)
    except OSError as error:
        _complain(_refused(error), HeedfulError.exit_code)
    except KeyboardInterrupt:
        _complain("interrupted: run the same command again, it continues from the last checkpoint", INTERRUPTED)


def _parsed(arguments: list[str], *, leads: bool) -> Any:
    """The verb. Exits with its help, or with what is wrong with the arguments; of torchrun's ranks one alone says it."""

    def parse() -> Any:
        return tyro.cli(
            _verbs(in_full=arguments[:1] not in ([], ["-h"], ["--help"])),
            prog="heedful",
            description=DESCRIPTION,
            args=arguments or ["--help"],
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
        )

    if leads:
        return parse()
    from heedful.ranks.rank_zero import speaks

    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            return parse()
    except SystemExit:
        speaks()  # torchrun ends all ranks as soon as one has ended: rank 0 must have spoken
        raise


def _under_torchrun() -> bool:
    """Whether this is one of several processes that torchrun has started."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def _refuse_torchrun(verb: Any) -> None:
    """A command that several processes run at the same time would write each file several times."""
    if _under_torchrun() and not isinstance(verb, Align | Pretrain):
        raise UserError(
            f"heedful {type(verb).__name__.lower()} works in one process",
            expected="one process (align and pretrain work in several)",
            got=f"{os.environ['WORLD_SIZE']} processes of torchrun",
            next_step="start it without torchrun",
        )


def _refused(error: OSError) -> str:
    """What the system refused (a full disk, a folder that may not be written to); anything else is a mistake in Heedful."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOMEM):
        raise error
    return str(
        StorageError(
            "the system refused to read or write",
            expected="a disk with room, and folders that may be read and written",
            got=error.strerror or str(error),
            where=error.filename,
            next_step="mend that and run the same command again: it continues where it was",
        )
    )


def _verbs(*, in_full: bool) -> Any:
    """The verbs for tyro: each with its docstring's first line for the list of verbs, or with all of it for its own help."""
    described = [
        Annotated[verb, tyro.conf.subcommand(verb.__name__.lower(), description=_description(verb, in_full))] for verb in _RUN
    ]
    return Union[tuple(described)]  # noqa: UP007 (their number is known only at run time)


def _say(console: Console, message: str) -> None:
    """Print a message as it is: no wrapping, so that paths stay whole, and no brackets taken for markup."""
    console.print(message, markup=False, highlight=False, soft_wrap=True)


def _complain(message: str, exit_code: int) -> NoReturn:
    if _under_torchrun():
        from heedful.ranks.rank_zero import speaks

        if not speaks():
            raise SystemExit(exit_code) from None
        if os.environ["RANK"] != "0":
            message = f"rank {os.environ['RANK']}: {message}"
    console = Console(stderr=True)
    if exit_code != INTERRUPTED:
        console.print("error:", style="bold red", end=" ")
    _say(console, message)
    raise SystemExit(exit_code) from None


def _align(verb: Align, console: Console) -> None:
    from heedful.align.loop import align

    project = _miniature(verb, console) if verb.project is None else _project(verb.project)
    if verb.project is not None and verb.seed is not None:
        raise UserError(
            "a project's seed is in its heedful.toml", got=f"--seed {verb.seed}", next_step="set seed under [project]"
        )
    report = align(project, console)
    if report is not None:
        _say(console, f"report: {report}")
        _say(console, f"numbers: {report.with_name('results.json')}")


def _miniature(verb: Align, console: Console) -> Project:
    from heedful.miniature.preparation import miniature_project
    from heedful.ranks.rank_zero import by_first_rank

    return by_first_rank(lambda: miniature_project(MINIATURE_FOLDER, seed=verb.seed))


def _init(verb: Init, console: Console) -> None:
    from heedful.project.project import init_project

    given = verb.base_model.strip()
    # Relative to where the command runs, as people mean it; whole, so that it holds wherever align runs.
    base_model = Path(given).expanduser().absolute() if given else None
    project = init_project(verb.project, base_model="" if base_model is None else str(base_model))
    _say(console, f"made the project {project.folder}")
    if base_model is not None and not (base_model / "config.json").is_file():
        console.print("warning:", style="bold yellow", end=" ")
        _say(
            console,
            f"there is no model in {base_model} yet (no config.json): "
            f"put it there, or change base_model in {project.config_file}",
        )
    _say(console, f"next: heedful import FORMAT FILE --project {project.folder}, then heedful align {project.folder}")


def _status(verb: Status, console: Console) -> None:
    from heedful.align.status import show_status

    show_status(_project(verb.project), Console())


def _import(verb: Import, console: Console) -> None:
    from heedful.project.importing import import_file

    project = _project(verb.project)
    report = import_file(verb.format, verb.file, project.data, labeler=verb.labeler, seed=verb.seed)
    print(report.summary())


def _prompts(verb: Prompts, console: Console) -> None:
    _PROMPTS[type(verb.action)](verb.action, console)


def _prompts_import(verb: PromptsImport, console: Console) -> None:
    from heedful.prompts.intake import Cleaning, count_words, import_prompts
    from heedful.prompts.personal import names_finder
    from heedful.prompts.printing import show_intake

    project = _project(verb.project)
    cleaning = Cleaning(
        max_length=verb.max_length,
        length=count_words if verb.tokenizer is None else _token_counter(verb.tokenizer),
        unit="words" if verb.tokenizer is None else "tokens",
        max_per_owner=verb.max_per_owner,
        region=verb.region,
        names=names_finder() if verb.names else None,
    )
    show_intake(import_prompts(verb.format, verb.file, project.data, source=verb.source, cleaning=cleaning), Console())


def _prompts_stats(verb: PromptsStats, console: Console) -> None:
    from heedful.prompts.intake import count_words
    from heedful.prompts.printing import show_tables
    from heedful.prompts.prompt_tables import prompt_tables
    from heedful.prompts.statistics_page import write_page

    project = _project(verb.project)
    if verb.tokenizer is None:
        tables = prompt_tables(project.data, length=count_words, unit="words")
    else:
        tables = prompt_tables(project.data, length=_token_counter(verb.tokenizer), unit="tokens")
    show_tables(tables, Console())
    page = verb.page or project.folder / "prompts.html"
    write_page(tables, project.name, page)
    _say(console, f"page: {page}")


def _prompts_forget(verb: PromptsForget, console: Console) -> None:
    from heedful.labeling.database.locating import if_there
    from heedful.prompts.forgetting import forget_owner
    from heedful.prompts.printing import show_forgotten

    project = _project(verb.project)
    with if_there(project.folder) as database:
        show_forgotten(forget_owner(project, verb.owner, database=database), Console())


_PROMPTS: dict[type, Any] = {PromptsImport: _prompts_import, PromptsStats: _prompts_stats, PromptsForget: _prompts_forget}


def _token_counter(path: Path) -> Callable[[str], int]:
    """How many tokens a text has, by the tokenizer of a model's folder. Raises MissingError, ModelError."""
    from tokenizers import Tokenizer

    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise MissingError("there is no tokenizer", expected="a folder with tokenizer.json", got="no such file", where=file)
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise ModelError("the tokenizer cannot be read", expected="a tokenizer.json", got=str(error), where=file) from None
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _export(verb: Export, console: Console) -> None:
    from heedful.project.exporting import export_file

    report = export_file(verb.format, _project(verb.project).data, verb.file, split=verb.split)
    print(report.summary())


def _web(verb: Web, console: Console) -> None:
    from heedful.web.serving import Listening, serve

    listening = Listening(
        host=verb.host,
        port=verb.port,
        url=verb.url,
        certificate=verb.certificate,
        certificate_key=verb.certificate_key,
        tls_proxy=verb.tls_proxy,
        unencrypted=verb.send_passwords_unencrypted,
    )
    serve(verb.project, listening, database_url=verb.database, say=lambda message: _say(console, message))


def _store(verb: Store, console: Console) -> None:
    from heedful.labeling.database import locating

    match verb.action:
        case StoreCopy() as action:
            said = locating.copy(action.source, action.target)
        case StoreBackup() as action:
            said = locating.backup(locating.database_of(action.project, action.database), action.file)
        case StoreRestore() as action:
            where = locating.database_of(action.project, action.database)
            said = locating.restore(where, action.file, overwrite=action.overwrite)
        case StoreCheck() as action:
            said = locating.check(locating.database_of(action.project, action.database))
        case StoreImport() as action:
            where, project = locating.database_of(action.project, action.database), _project(action.project)
            said = locating.import_project(where, project, overlap=action.overlap, demonstrations=action.demonstrations)
        case StoreExport() as action:
            # `heedful web` serves any folder: its answers can be had as a file without a project around them.
            where = locating.database_of(action.project, action.database)
            project = _project(action.project) if action.file is None else None
            said = locating.export_project(where, project, file=action.file, surplus=action.surplus)
    print(said)


def _report(verb: Report, console: Console) -> None:
    from heedful.evaluate.report import write_report
    from heedful.evaluate.results import load_results, load_timings

    timings = verb.results.with_name("timings.json")
    output = verb.output or verb.results.with_name("report.html")
    write_report(load_results(verb.results), load_timings(timings) if timings.is_file() else None, output)
    _say(console, f"report: {output}")


def _pretrain(verb: Pretrain, console: Console) -> None:
    from heedful.align.pretraining import pretrain_from_text
    from heedful.training.config import PretrainConfig

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
    _say(console, f"model: {folder}")


def _plan(verb: Plan, console: Console) -> None:
    from heedful.planning.command import plan_of
    from heedful.planning.plan_tables import plan_as_json, show_plan

    plan = plan_of(
        verb.model,
        reward_model=verb.reward_model,
        preset_name=verb.preset,
        gpus=verb.gpus,
        gpu=verb.gpu,
        utilization=verb.utilization,
        prompt_tokens=verb.prompt_tokens,
        response_tokens=verb.response_tokens,
        demonstrations=verb.demonstrations,
        rankings=verb.rankings,
        lora_rank=verb.lora_rank,
        activation_checkpointing=verb.activation_checkpointing,
    )
    if verb.json:
        print(json.dumps(plan_as_json(plan), indent=2))
    else:
        show_plan(plan, Console())


def _sweep(verb: Sweep, console: Console) -> None:
    from heedful.align.sweep import grid, sweep

    if (verb.low is None) != (verb.high is None) or (verb.values and verb.low is not None):
        raise ConfigError(
            "this is no grid",
            expected="--low and --high, or --values",
            got="both" if verb.values else "one bound",
            next_step="give --low, --high and --trials, or the --values themselves",
        )
    values = list(verb.values)
    if verb.low is not None and verb.high is not None:
        values = grid(verb.low, verb.high, verb.trials, verb.spacing)
    report = sweep(_project(verb.project), verb.step, verb.field, values, console, spacing=verb.spacing)
    _say(console, f"report: {report}")
    _say(console, f"numbers: {report.with_name('results.json')}")


def _doctor(verb: Doctor, console: Console) -> None:
    from heedful.model.doctor import examine, refuse_failed

    checks = examine(verb.model, verb.precision)
    table = Table(box=None, pad_edge=False)
    for heading in ("type", "check", "of", "difference", "limit", ""):
        table.add_column(heading, justify="right" if heading in ("difference", "limit") else "left", no_wrap=True)
    for check in checks:
        numbers = (f"{check.difference:.1e}", f"{check.limit:.1e}")
        table.add_row(check.precision, check.name, check.quantity, *numbers, "ok" if check.passed else "FAILED")
    Console().print(table, highlight=False)
    refuse_failed(checks, verb.model)
    _say(console, f"{verb.model}: all {len(checks)} checks passed")


_RUN = {
    Align: _align,
    Init: _init,
    Status: _status,
    Import: _import,
    Prompts: _prompts,
    Export: _export,
    Web: _web,
    Store: _store,
    Report: _report,
    Pretrain: _pretrain,
    Plan: _plan,
    Sweep: _sweep,
    Doctor: _doctor,
}


def _project(folder: Path) -> Project:
    from heedful.project.project import Project

    return Project.load(folder)


def _not_installed(error: ModuleNotFoundError) -> HeedfulError:
    """What to install for a verb that needs more; raises the error itself where the missing module is one of our own."""
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
