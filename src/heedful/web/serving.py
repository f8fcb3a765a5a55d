"""``heedful web``: check that it is safe to listen, open the database, serve until stopped."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from heedful.errors import ConfigError, MissingError, UserError
from heedful.labeling.database.connection import Database, open_database
from heedful.labeling.database.locating import database_of
from heedful.labeling.people.accounts import first_admin_token
from heedful.labeling.people.instruction_versions import publish_first_versions
from heedful.listening import check_port, is_loopback, listen
from heedful.project.project import CONFIG_FILE
from heedful.web.app import create_app
from heedful.web.app_settings import Settings, model_server_key, model_server_of, secret_key
from heedful.web.public.expiry import texts_expire

KEY_FILE = "web-key"
BACKUPS_FOLDER = "backups"
STOP_SECONDS = 10
"""How long running requests may continue after Ctrl-C."""


REQUEST_SECONDS = 15.0
"""How long a connection may take to send the headers of a request."""
MOST_CONNECTIONS = 1_000
"""More connections get status 503 at once."""


class PromptProtocol(H11Protocol):
    """Uvicorn's protocol, with a time limit: it would wait forever for the rest of a request."""

    waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Start the time limit for the first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Complete headers end the time limit; a part of them does not extend it."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time limit."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self.waiting is None:
            self.waiting = self.loop.call_later(REQUEST_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where and how to listen."""

    host: str = "127.0.0.1"
    port: int = 8000
    url: str | None = None
    certificate: Path | None = None
    certificate_key: Path | None = None
    tls_proxy: str | None = None
    unencrypted: bool = False

    def __post_init__(self) -> None:
        check_port(self.port, usual=8000)
        if (self.certificate is None) != (self.certificate_key is None):
            raise ConfigError("a certificate needs its key", expected="both --certificate and --certificate-key")
        for file in (self.certificate, self.certificate_key):
            if file is not None and not file.is_file():
                raise MissingError("there is no such certificate or key", expected="a PEM file", got="no file", where=file)
        if self.url is not None and (urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).netloc):
            raise ConfigError("the address is not valid", expected="https://labels.example.org", got=self.url)
        if self.tls_proxy is not None and not (self.url or "").startswith("https://"):
            raise ConfigError(
                "behind a proxy with TLS, people reach the application at the proxy's address",
                expected="--url https://…",
                got=self.url or "no --url",
                next_step="add --url with the address that people type",
            )
        if not (self.secure or self.unencrypted or is_loopback(self.host)):
            raise UserError(
                "without TLS, anyone on the network could read passwords and labels",
                expected="a certificate, or a proxy that speaks TLS, to listen beyond this machine",
                got=f"--host {self.host} without either",
                next_step="give --certificate and --certificate-key; or --tls-proxy with --url (docs/web.md); "
                "or, in a network that you fully trust, --send-passwords-unencrypted",
            )

    @property
    def secure(self) -> bool:
        """Whether browsers speak TLS, with this server or with the proxy."""
        return self.certificate is not None or self.tls_proxy is not None

    @property
    def public_url(self) -> str:
        """The beginning of all links."""
        if self.url is not None:
            return self.url.rstrip("/")
        host = socket.gethostname() if self.host in ("0.0.0.0", "::", "") else self.host
        return f"{'https' if self.secure else 'http'}://{f'[{host}]' if ':' in host else host}:{self.port}"


def serve(
    folder: Path,
    listening: Listening,
    *,
    database_url: str | None,
    say: Callable[[str], None],
    model_server: str | None = None,
    listener: socket.socket | None = None,
) -> None:
    """Serve the labeling application until interrupted. Raises UserError, StorageError.

    model_server: address of the models that people talk to; None: as in heedful.toml or the environment.
    listener: a socket that is already listening, from ``heedful.listening.listen``.
    """
    if not folder.is_dir():
        raise MissingError(
            "there is no such folder",
            expected="the folder of a project, or an empty one",
            got="a file" if folder.exists() else "nothing",
            where=folder,
            next_step=f"make it (mkdir {folder}), or make a project there (heedful init {folder} --base-model MODEL)",
        )
    model_server = model_server_of(folder, model_server)
    if listener is None:
        listener = listen(listening.host, listening.port, command="heedful web")
    try:
        listening = replace(listening, port=listener.getsockname()[1])  # 0: the system has chosen one
        database = open_database(database_of(folder, database_url))
        try:
            _serve(database, folder, listening, listener, model_server, say)
        finally:
            database.close()
    finally:
        listener.close()


def _end(signal_number: int, frame: object) -> None:
    """Raise, so that the database is closed; the web server repeats the signal when it has finished."""
    raise SystemExit(128 + signal_number)


def _serve(
    database: Database,
    folder: Path,
    listening: Listening,
    listener: socket.socket,
    model_server: str | None,
    say: Callable[[str], None],
) -> None:
    signal.signal(signal.SIGTERM, _end)
    settings = Settings(
        key=secret_key(folder / KEY_FILE),
        public_url=listening.public_url,
        secure=listening.secure,
        backups=folder / BACKUPS_FOLDER,
        project=folder if (folder / CONFIG_FILE).is_file() else None,
        model_server=model_server,
        model_server_key=model_server_key(),
    )
    app = create_app(database, settings)
    config = uvicorn.Config(
        app,
        http=PromptProtocol,
        limit_concurrency=MOST_CONNECTIONS,
        log_level="warning",
        # Paths may hold invite tokens, which must not be logged.
        access_log=False,
        server_header=False,
        proxy_headers=listening.tls_proxy is not None,
        forwarded_allow_ips=listening.tls_proxy,
        ssl_certfile=listening.certificate,
        ssl_keyfile=listening.certificate_key,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    try:
        config.load()
    except (ssl.SSLError, OSError) as error:
        raise UserError(
            "the certificate cannot be used",
            expected="a certificate and its key in PEM format",
            got=getattr(error, "reason", None) or str(error),
            where=listening.certificate,
        ) from error
    logging.getLogger("heedful.web").setLevel(logging.INFO)
    with database.write() as connection:
        publish_first_versions(connection)
        token = first_admin_token(connection)
    say(f"the labeling application is at {settings.public_url}")
    if listening.unencrypted and not listening.secure and not is_loopback(listening.host):
        say("warning: passwords and labels cross the network unencrypted")
    if token is not None:
        say(f"join as its first admin, once, within a week: {settings.public_url}/join/{token}")
    if model_server is not None:
        say(f"playground and public API use the model server at {model_server}")
    say("stop it with Ctrl-C")
    # uvicorn has finished its requests, and repeats the signal that stopped it
    with suppress(KeyboardInterrupt), texts_expire(database), app.state.eraser.running():
        uvicorn.Server(config).run(sockets=[listener])
    say("stopped")
