"""``heedful web`` and ``heedful store``: the labeling application, and the care of its database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from heedful.cli.options import DatabaseOption, Flag, ProjectFolder, load_project, optional, say, subcommand
from heedful.errors import ConfigError, StorageError


@dataclass(frozen=True, kw_only=True)
class Web:
    """Serve the labeling application: people write, rank and rate in a browser.

    - The first start prints a link to join as admin; invite the others from the
      page People.
    - Labels are kept in labels.sqlite in the project's folder, or in
      PostgreSQL with --database.
    - For other machines to reach it, it needs TLS: a certificate, or a proxy.
    - More is in docs/web.md.
    """

    project: Annotated[Path, tyro.conf.Positional, optional("[PROJECT]")] = Path()
    """The project's folder, or any folder to keep the labels in (else the current folder)."""
    database: Annotated[str | None, optional("URL")] = None
    """postgresql+psycopg://USER:PASSWORD@HOST/NAME, or a SQLite file (else $DATABASE_URL, else labels.sqlite)."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0: every address of this machine."""
    port: int = 8000
    """Port to listen on; 0: any free port."""
    url: Annotated[str | None, optional("URL")] = None
    """The address that people open, for links: https://labels.example.org (else made from host and port)."""
    certificate: Annotated[Path | None, optional("FILE")] = None
    """TLS certificate in PEM format, with its chain."""
    certificate_key: Annotated[Path | None, optional("FILE")] = None
    """The certificate's key."""
    tls_proxy: Annotated[str | None, optional("ADDRESS")] = None
    """Address of a reverse proxy that speaks TLS with browsers; its X-Forwarded-For header is trusted."""
    model_server: Annotated[str | None, optional("URL")] = None
    """OpenAI-compatible server behind the playground and the public API (else as in heedful.toml, else
    $HEEDFUL_MODEL_SERVER)."""
    send_passwords_unencrypted: Flag = False
    """Serve other machines without TLS: anyone on the network can read passwords and labels."""

    def run(self, console: Console) -> None:
        """Serve until interrupted. Raises ConfigError, MissingError."""
        from heedful.web.serving import Listening, serve

        listening = Listening(
            host=self.host,
            port=self.port,
            url=self.url,
            certificate=self.certificate,
            certificate_key=self.certificate_key,
            tls_proxy=self.tls_proxy,
            unencrypted=self.send_passwords_unencrypted,
        )
        serve(
            self.project,
            listening,
            database_url=self.database,
            model_server=self.model_server,
            say=lambda message: say(console, message),
        )


@dataclass(frozen=True, kw_only=True)
class StoreBackup:
    """Copy the labels to a file while people go on working.

    - The backup is one consistent, checked state; no partial file is ever left.
    - Only for SQLite. For PostgreSQL, use pg_dump.
    """

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The backup to write; it replaces an older file of this name."""
    project: ProjectFolder = Path()
    database: DatabaseOption = None

    def run(self, console: Console) -> None:
        """Write the backup. Raises MissingError, ConfigError, StorageError."""
        from heedful.labeling.database.locating import database_of, existing
        from heedful.labeling.database.maintenance import backup

        with existing(database_of(self.project, self.database)) as database:
            target = backup(database, self.file)
        print(f"backup: {target} ({target.stat().st_size:,} bytes)")


@dataclass(frozen=True, kw_only=True)
class StoreRestore:
    """Replace the labels with a backup. Stop the server first.

    - An existing database is replaced only with --overwrite, and kept beside
      the new one as labels.sqlite.before-restore.
    """

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The backup."""
    project: ProjectFolder = Path()
    database: Annotated[str | None, optional("URL")] = None
    """The database to restore (else $DATABASE_URL, else labels.sqlite in the project)."""
    overwrite: Flag = False
    """Replace an existing database."""

    def run(self, console: Console) -> None:
        """Put the backup in place. Raises ConfigError for PostgreSQL, ConflictError without --overwrite, StorageError."""
        from heedful.labeling.database.connection import database_url
        from heedful.labeling.database.locating import database_of
        from heedful.labeling.database.maintenance import restore

        url = database_url(database_of(self.project, self.database))
        if url.get_backend_name() != "sqlite":
            raise ConfigError("a backup is restored to a SQLite file", got=url.render_as_string(), next_step="use pg_restore")
        print(f"restored: {restore(self.file, str(url.database), overwrite=self.overwrite)}")


@dataclass(frozen=True, kw_only=True)
class StoreCheck:
    """Check that the labels are intact.

    - Checks the file, references and counters, and compares each answer's
      rows with the raw answer.
    - The exit code is 1 if something is wrong.
    """

    project: ProjectFolder = Path()
    database: DatabaseOption = None

    def run(self, console: Console) -> None:
        """Print how many rows there are. Raises StorageError with a list of problems."""
        from heedful.labeling.database.locating import database_of, existing
        from heedful.labeling.database.maintenance import check

        with existing(database_of(self.project, self.database)) as database:
            checked = check(database)
        if checked.problems:
            raise StorageError(
                f"the labeling database is not sound: {len(checked.problems)} problems",
                expected="an intact file, valid references and counters, answers as they were submitted",
                got="; ".join(checked.problems),
                where=database.url.render_as_string(),
                next_step="keep a copy, then restore a backup; the raw JSON of the answers is in the table assignment",
            )
        print(f"{checked.summary()}\nsound: file, references, counters, and every answer's rows")


@dataclass(frozen=True, kw_only=True)
class StoreCopy:
    """Copy the labels from one database to another: SQLite, PostgreSQL or back.

    - The target must be empty. Row counts and a checksum of each table are
      compared before anything is kept.
    - Each is a path, or postgresql+psycopg://USER:PASSWORD@HOST/NAME.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FROM")]
    """The database to copy."""
    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TO")]
    """The empty database."""

    def run(self, console: Console) -> None:
        """Copy all rows. Raises MissingError, ConflictError, StorageError."""
        from heedful.labeling.database.connection import open_database
        from heedful.labeling.database.locating import existing
        from heedful.labeling.database.maintenance import copy

        with existing(self.source) as source:
            target = open_database(self.target)
            try:
                counts = copy(source, target)
            finally:
                target.close()
        print(f"copied {sum(counts.values()):,} rows; counts and checksums of all {len(counts)} tables agree")


@dataclass(frozen=True, kw_only=True)
class StoreImport:
    """Copy a project's prompts, responses and open tasks to the labeling database.

    - The tasks are those that `heedful align` left in the project's tasks/.
    - A second import adds only what is new.
    """

    project: ProjectFolder = Path()
    database: DatabaseOption = None
    overlap: int = 1
    """How many labelers answer each task."""
    demonstrations: int = 0
    """Also create this many tasks to write a demonstration, for prompts without one."""

    def run(self, console: Console) -> None:
        """Add what is new to the database; create the database if there is none. Raises MissingError, DataError."""
        from heedful.labeling.database.connection import open_database
        from heedful.labeling.database.locating import database_of
        from heedful.labeling.exchange.labels import import_project

        project = load_project(self.project)
        database = open_database(database_of(self.project, self.database))
        try:
            with database.write() as connection:
                done = import_project(connection, project, overlap=self.overlap, demonstrations=self.demonstrations)
        finally:
            database.close()
        print(done.summary())


@dataclass(frozen=True, kw_only=True)
class StoreExport:
    """Copy the labelers' answers into the project's data, for `heedful align`.

    - Every kind of answer goes to labels.jsonl. Those that can train a model go
      on into data/; others, such as toxicity, stay in that file.
    - Labelers appear under pseudonyms; late answers are marked.
    - A second export adds only what is new, and removes records of answers
      that were corrected or sent back in the meantime.
    """

    project: ProjectFolder = Path()
    database: DatabaseOption = None
    file: Annotated[Path | None, optional("FILE")] = None
    """Write the records to this file (JSONL) instead of the project's data."""
    surplus: Flag = False
    """Include late answers to tasks that already had enough, and answers that were corrected or sent back."""
    screening: Flag = False
    """Include screening answers of candidates and researchers, under codes; only with --file."""

    def run(self, console: Console) -> None:
        """Write the records to labels.jsonl and import them; with --file, only write that file.

        Raises ConfigError, MissingError.
        """
        from heedful.labeling.database.locating import database_of, existing
        from heedful.labeling.exchange.labels import exported_records
        from heedful.labeling.exchange.superseded import remove_superseded
        from heedful.project.files import write_jsonl
        from heedful.project.importing import import_file
        from heedful.prompts.withdrawing import LABELS_FILE, apply_withdrawals

        if self.screening and self.file is None:
            raise ConfigError(
                "screening answers do not belong in a project's data",
                expected="--screening together with --file",
                got="no --file",
                next_step="name a file with --file",
            )
        # `heedful web` serves any folder: a file can be written even if the folder holds no project.
        project = load_project(self.project) if self.file is None else None
        target = self.file if project is None else project.folder / LABELS_FILE
        assert target is not None
        with existing(database_of(self.project, self.database)) as database:
            if project is not None:
                for line in apply_withdrawals(database, project).lines():
                    say(Console(), line)
            with database.read() as connection:
                write_jsonl(target, exported_records(connection, surplus=self.surplus, screening=self.screening))
                removed = 0 if project is None else remove_superseded(connection, project.data)
        if project is None:
            print(f"labels: {target}")
        elif target.stat().st_size == 0:
            print("there are no answers to export yet")
        else:
            say(Console(), import_file("heedful", target, project.data).summary())
        if removed:
            print(f"removed {removed} records whose answers were corrected or sent back; the database keeps the answers")


@dataclass(frozen=True, kw_only=True)
class Store:
    """The labeling database: backup, restore, check, copy, import and export.

    - More on each: `heedful store backup --help`, and so on.
    """

    action: (
        Annotated[StoreBackup, subcommand(StoreBackup, "backup")]
        | Annotated[StoreRestore, subcommand(StoreRestore, "restore")]
        | Annotated[StoreCheck, subcommand(StoreCheck, "check")]
        | Annotated[StoreCopy, subcommand(StoreCopy, "copy")]
        | Annotated[StoreImport, subcommand(StoreImport, "import")]
        | Annotated[StoreExport, subcommand(StoreExport, "export")]
    )

    def run(self, console: Console) -> None:
        """Do what was asked of the database."""
        self.action.run(console)
