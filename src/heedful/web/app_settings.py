"""The settings of the application, and its secret key, which the first start makes."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from heedful.errors import ConfigError, DataError, StorageError
from heedful.project.project import CONFIG_FILE, Project

KEY_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one running application."""

    key: bytes
    """Signs what the browser keeps before its user logs in."""
    public_url: str
    """Where people reach the application, without a slash at the end: the beginning of all links."""
    secure: bool
    """Whether browsers reach it over TLS; cookies are then sent only over TLS."""
    title: str = "Heedful"
    """The title at the top of the pages."""
    backups: Path | None = None
    """Folder for backups of the database; None if pages offer no backups."""
    project: Path | None = None
    """Folder of the project that prompts come from; None if there is no project."""
    model_server: str | None = None
    """Address of the models that people talk to, with OpenAI's API (``http://127.0.0.1:8001/v1``); None if there are none."""
    model_server_key: str | None = None
    """API key for the model server."""
    max_body_bytes: int = 2_000_000
    """The largest request that is accepted."""


def model_server_of(project: Path, given: str | None) -> str | None:
    """The address of the model server: ``given``, else as in heedful.toml, else $HEEDFUL_MODEL_SERVER.

    Raises ConfigError for an invalid address or a bad heedful.toml.
    """
    configured = Project.load(project).model_server if given is None and (project / CONFIG_FILE).is_file() else None
    address = given or configured or os.environ.get("HEEDFUL_MODEL_SERVER")
    if not address:
        return None
    try:
        parts = urlsplit(address)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:  # half of an IPv6 address
        is_valid = False
    if not is_valid:
        raise ConfigError(
            "the address of the model server is not valid",
            expected="http://127.0.0.1:8001/v1",
            got=address,
            where=project / CONFIG_FILE if configured else "HEEDFUL_MODEL_SERVER",
            next_step="give the address that `heedful serve` prints",
        )
    return address.rstrip("/")


def model_server_key() -> str | None:
    """$HEEDFUL_MODEL_SERVER_KEY, without the newline with which a secret out of a file often ends. Raises ConfigError."""
    key = os.environ.get("HEEDFUL_MODEL_SERVER_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            "the key for the model server cannot be sent",
            expected="ASCII without control characters",
            got="other characters",
            where="HEEDFUL_MODEL_SERVER_KEY",
        )
    return key or None


def secret_key(file: Path) -> bytes:
    """The application's key, from a file that only its owner may read; made if there is none.

    Raises StorageError if the file cannot be written or read, DataError if it holds something else.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Another process may start at the same moment: the first link wins, and both then read the same key.
        if not file.exists():
            aside = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(descriptor, "w") as stream:
                    stream.write(secrets.token_hex(KEY_BYTES) + "\n")
                    stream.flush()
                    os.fsync(stream.fileno())
                if not file.exists():
                    os.link(aside, file)
            except FileExistsError:
                pass
            finally:
                aside.unlink(missing_ok=True)
        if file.stat().st_mode & 0o077:
            file.chmod(0o600)
        text = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(
            "the application's key could not be read or made",
            expected="a folder that may be written to",
            got=str(error),
            where=file,
        ) from error
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise DataError(
            "the application's key cannot be used",
            expected=f"{2 * KEY_BYTES} hexadecimal digits",
            got=f"{len(text)} characters",
            where=file,
            next_step="delete the file: a new one is made, and people with an open login page must load it again",
        )
    return key
