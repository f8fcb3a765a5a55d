"""``heedful prompts``: import users' prompts cleaned, count them, and erase those of an owner who asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from heedful.cli.options import DatabaseOption, Flag, PositionalProject, ProjectFolder, load_project, optional, say, subcommand
from heedful.errors import ConfigError, MissingError, ModelError


@dataclass(frozen=True, kw_only=True)
class PromptsImport:
    """Read users' prompts from a file into a project, and clean them.

    - prompts  rows with prompt and owner (JSONL, CSV, TSV, Parquet)
    - chat     conversations: the prompt is everything up to the user's last turn
    - api      the log of the public API: only requests with consent. Without
               FILE: requests and playground turns in the project's own
               labeling database
    - Left out, each with its reason in data/rejected.jsonl: personal data in
      train, duplicates, prompts that are too long or over an owner's cap.
    - All prompts of one owner go to one split and stay there.
    - Importing the same file again adds nothing.
    """

    format: Annotated[Literal["prompts", "chat", "api"], tyro.conf.Positional, tyro.conf.arg(metavar="FORMAT")]
    """The file's format: prompts, chat or api."""
    file: Annotated[Path | None, tyro.conf.Positional, optional("[FILE]")] = None
    """The file (.jsonl, .json, also .gz; .csv, .tsv, .parquet). Without one: the labeling database (api only)."""
    project: ProjectFolder = Path()
    database: DatabaseOption = None
    source: Literal["customer", "labeler", "imported"] = "imported"
    """Where the prompts come from, if a row does not say (api: customers)."""
    tokenizer: Annotated[Path | None, optional("FOLDER")] = None
    """A model's folder, or its tokenizer.json, to measure lengths in tokens (else in words)."""
    max_length: int = 1_024
    """Longest prompt, in tokens or words."""
    max_per_owner: int = 200
    """Most prompts to keep of one user or organisation."""
    region: str = "US"
    """Country of phone numbers that have no country code."""
    names: Flag = False
    """Treat people's names as personal data too; Presidio finds them (heedful[names])."""

    def run(self, console: Console) -> None:
        """Add what is new; print what was left out and why. Raises MissingError, DataError, ConfigError."""
        from heedful.labeling.database.locating import database_of, existing
        from heedful.prompts.intake import Cleaning, count_words, import_prompts
        from heedful.prompts.personal import names_finder
        from heedful.prompts.printing import show_intake
        from heedful.prompts.row_sources import of_database
        from heedful.prompts.withdrawing import apply_withdrawals

        project = load_project(self.project)
        cleaning = Cleaning(
            max_length=self.max_length,
            length=count_words if self.tokenizer is None else _token_counter(self.tokenizer),
            unit="words" if self.tokenizer is None else "tokens",
            max_per_owner=self.max_per_owner,
            region=self.region,
            names=names_finder() if self.names else None,
        )
        if self.file is not None:
            show_intake(import_prompts(self.format, self.file, project.data, source=self.source, cleaning=cleaning), Console())
            return
        if self.format != "api":
            raise ConfigError(
                f"prompts of the format {self.format} come from a file",
                expected=f"heedful prompts import {self.format} FILE",
                got="no file",
                next_step="name the file; only `heedful prompts import api` can read the labeling database instead",
            )
        with existing(database_of(project.folder, self.database)) as database:
            for line in apply_withdrawals(database, project).lines():
                say(Console(), line)
            with of_database(database) as rows:
                if not any(True for _ in rows.rows()):
                    say(Console(), "the labeling database holds no requests or turns that may become prompts")
                    return
                show_intake(import_prompts("api", rows, project.data, cleaning=cleaning), Console())


@dataclass(frozen=True, kw_only=True)
class PromptsStats:
    """Print the paper's Tables 1 and 6 to 11 for a project's prompts.

    - Use cases, sizes by split and source, how labelers describe the prompts,
      prompts per owner, lengths, languages.
    - An HTML page gets the same tables, with figures.
    """

    project: PositionalProject = Path()
    tokenizer: Annotated[Path | None, optional("FOLDER")] = None
    """A model's folder, or its tokenizer.json, to measure lengths in tokens (else in words)."""
    page: Annotated[Path | None, optional("FILE")] = None
    """The HTML page to write (else prompts.html in the project)."""

    def run(self, console: Console) -> None:
        """Print the tables and write the page. Raises MissingError, ModelError."""
        from heedful.prompts.intake import count_words
        from heedful.prompts.printing import show_tables
        from heedful.prompts.prompt_tables import prompt_tables
        from heedful.prompts.statistics_page import write_page

        project = load_project(self.project)
        if self.tokenizer is None:
            tables = prompt_tables(project.data, length=count_words, unit="words")
        else:
            tables = prompt_tables(project.data, length=_token_counter(self.tokenizer), unit="tokens")
        show_tables(tables, Console())
        page = self.page or project.folder / "prompts.html"
        write_page(tables, project.name, page)
        say(console, f"page: {page}")


@dataclass(frozen=True, kw_only=True)
class PromptsForget:
    """Erase everything of one owner from a project.

    - It erases the prompts, with all responses, demonstrations, rankings,
      ratings and tasks, and their text in runs, reports, exports, the database
      and its backups.
    - A tombstone stays, so that a later import does not bring them back.
    - It lists what cannot be erased: models that may have learned from them.
    - You cannot undo it.
    """

    owner: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OWNER")]
    """The owner's id, as in the field user of data/prompts.jsonl."""
    project: ProjectFolder = Path()
    retrain: Flag = False
    """Let the next `heedful align` retrain the models that were trained on this data."""

    def run(self, console: Console) -> None:
        """Erase from the files and from the labeling database, if there is one; print what was erased. Raises MissingError."""
        from heedful.labeling.database.locating import if_there
        from heedful.prompts.forgetting import forget_owner
        from heedful.prompts.printing import show_forgotten

        project = load_project(self.project)
        with if_there(project.folder) as database:
            report = forget_owner(project, self.owner, database=database, retrain=self.retrain)
        if project.folder / "results.json" in report.cleaned:
            _write_report_again(project.folder)
        show_forgotten(report, Console())


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Import users' prompts, show what there is, forget an owner.

    - import  read prompts, chats or the API's log, cleaned
    - stats   the paper's tables for your prompts
    - forget  erase everything of one owner
    - More on each: `heedful prompts import --help`, and so on.
    """

    action: (
        Annotated[PromptsImport, subcommand(PromptsImport, "import")]
        | Annotated[PromptsStats, subcommand(PromptsStats, "stats")]
        | Annotated[PromptsForget, subcommand(PromptsForget, "forget")]
    )

    def run(self, console: Console) -> None:
        """Do what was asked of the prompts."""
        self.action.run(console)


def _write_report_again(folder: Path) -> None:
    """Write report.html from results.json; without matplotlib, the page keeps only the text that forgetting replaced in it."""
    if not (folder / "report.html").is_file() or find_spec("matplotlib") is None:
        return
    from heedful.evaluate.report import write_report
    from heedful.evaluate.results_file import load_results, load_timings

    timings = folder / "timings.json"
    write_report(
        load_results(folder / "results.json"), load_timings(timings) if timings.is_file() else None, folder / "report.html"
    )


def _token_counter(path: Path) -> Callable[[str], int]:
    """A function that counts the tokens of a text with this tokenizer. Raises MissingError, ModelError."""
    from tokenizers import Tokenizer

    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise MissingError("there is no tokenizer", expected="a folder with tokenizer.json", got="no such file", where=file)
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise ModelError("the tokenizer cannot be read", expected="a tokenizer.json", got=str(error), where=file) from None
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
