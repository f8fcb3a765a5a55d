"""The work of ``heedful serve``: load the models, listen, and shut down cleanly: finish running requests, refuse new ones."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from heedful.errors import HeedfulError, UserError
from heedful.listening import check_port, is_loopback, listen
from heedful.model.precision import Precision
from heedful.serve.access_keys import AccessKey, read_keys
from heedful.serve.served_models import ModelSource, ServedModel, load
from heedful.serve.serving_app import create_serving_app
from heedful.serve.serving_state import Limits, ServingState

KEY_VARIABLE = "HEEDFUL_API_KEY"
SECONDS_BETWEEN_LOOKS = 2.0
"""Seconds between two looks for a project's new models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to listen; port 0 is any free one."""

    host: str = "127.0.0.1"
    port: int = 8001

    def __post_init__(self) -> None:
        check_port(self.port, usual=8001)


class DrainingServer(uvicorn.Server):
    """A server that finishes its running requests before it stops. Told twice, it stops at once."""

    def __init__(self, config: uvicorn.Config, state: ServingState) -> None:
        super().__init__(config)
        self._state, self._told = state, 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM and Ctrl-C: the process then ends with exit code 0."""
        self.stop()

    @property
    def names(self) -> list[str]:
        """Of the models that it offers."""
        return list(self._state.models)

    def add(self, served: ServedModel) -> None:
        """Offer one more model."""
        self._state.add(served)

    def stop(self) -> None:
        """Refuse new requests from now on, and end when there are none left, or their time is over."""
        if self._state.draining:
            self.should_exit = self.force_exit = True
        self._state.draining, self._told = True, time.monotonic()

    async def on_tick(self, counter: int) -> bool:
        """Uvicorn calls this ten times a second."""
        if self._state.draining:
            late = time.monotonic() - self._told > self._state.limits.drain_seconds
            self.should_exit = self.should_exit or late or self._state.num_requests == 0
        return await super().on_tick(counter)


def serve(
    sources: Sequence[ModelSource],
    address: Address,
    limits: Limits,
    *,
    key_file: Path | None,
    precision: Precision,
    say: Callable[[str], None],
) -> None:
    """Serve models until told to stop. Raises UserError, ConfigError, MissingError, ModelError."""
    keys = read_keys(key_file, os.environ.get(KEY_VARIABLE), [source.name for source in sources])
    _refuse_open(address.host, keys)
    listener = listen(address.host, address.port, command="heedful serve")
    try:
        models = load_all(sources, precision, say)
        server = make_server(models, limits, keys)
        say(f"the server is at {url_of(listener)}/v1: {', '.join(models)}")
        say("stop it with Ctrl-C")
        server.run(sockets=[listener])
        say("stopped")
    finally:
        listener.close()


@contextmanager
def serving(
    sources: Sequence[ModelSource],
    limits: Limits,
    *,
    precision: Precision,
    say: Callable[[str], None],
    later: Callable[[], Sequence[ModelSource]] | None = None,
) -> Iterator[str]:
    """Serve models beside what else this process does, on a free port of this machine only; gives the address.

    later: called now and then for the models that exist; new ones are loaded and offered too.
    """
    listener = listen(Address().host, 0, command="heedful serve")
    try:
        server = make_server(load_all(sources, precision, say), limits, ())
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="heedful-serve")
        thread.start()
        stop = threading.Event()
        looking = threading.Thread(target=_look, args=(server, later, precision, say, stop), name="heedful-new-models")
        looking.start()
        try:
            yield f"{url_of(listener)}/v1"
        finally:
            stop.set()
            server.stop()
            thread.join()
            looking.join()
    finally:
        listener.close()


def _look(
    server: DrainingServer,
    later: Callable[[], Sequence[ModelSource]] | None,
    precision: Precision,
    say: Callable[[str], None],
    stop: threading.Event,
) -> None:
    """Offer models that are finished while the server runs. One that cannot be loaded is reported once."""
    refused: set[Path] = set()
    problem = ""
    while later is not None and not stop.wait(SECONDS_BETWEEN_LOOKS):
        try:
            sources = [one for one in later() if one.name not in server.names and one.folder not in refused]
        except HeedfulError as error:  # for example while heedful.toml is being edited
            if str(error) != problem:
                problem = str(error)
                say(problem)
            continue
        problem = ""
        for source in sources:
            try:
                server.add(load(source, precision))
                say(f"new: {source.name}: {source.folder}")
            except HeedfulError as error:
                refused.add(source.folder)
                say(str(error))


def make_server(models: dict[str, ServedModel], limits: Limits, keys: Sequence[AccessKey]) -> DrainingServer:
    """A server over loaded models, which has not begun to listen."""
    logging.getLogger("heedful.serve").setLevel(logging.INFO)
    app = create_serving_app(models, limits, keys)
    config = uvicorn.Config(
        app,
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,  # after the requests have had their time
    )
    return DrainingServer(config, app.state.serving)


def load_all(sources: Sequence[ModelSource], precision: Precision, say: Callable[[str], None]) -> dict[str, ServedModel]:
    """Load the models. Raises MissingError, ModelError, ConfigError."""
    models: dict[str, ServedModel] = {}
    for source in sources:
        models[source.name] = load(source, precision)
        say(f"{source.name}: {source.folder}")
    return models


def url_of(listener: socket.socket) -> str:
    """The address at which a socket listens."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _refuse_open(host: str, keys: Sequence[AccessKey]) -> None:
    if keys or is_loopback(host):
        return
    raise UserError(
        "without an API key, everybody on the network could use the models",
        expected="a key, to listen beyond this machine",
        got=f"--host {host} without one",
        next_step=f"set the variable {KEY_VARIABLE}, or give --api-keys FILE",
    )
