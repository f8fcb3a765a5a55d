"""One listener for `heedful web`, `serve` and `up`."""

from __future__ import annotations

import errno
import socket

import pytest

from heedful.errors import ConfigError, HeedfulError, StorageError, UserError
from heedful.listening import check_port, is_loopback, listen


def test_it_listens_on_a_free_port() -> None:
    listener = listen("127.0.0.1", 0, command="heedful web")
    with listener, socket.create_connection(listener.getsockname(), timeout=20):
        pass


def test_a_port_that_is_taken_names_the_command_and_another_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError) as raised:
            listen("127.0.0.1", port, command="heedful serve")
    assert "perhaps heedful serve is running already" in str(raised.value)
    assert raised.value.next_step is not None
    assert f"--port {port + 1 if port < 65_535 else port - 1}" in raised.value.next_step


class Refusing(socket.socket):
    """A socket that the system does not let listen."""

    code = errno.EACCES

    def bind(self, address: object) -> None:
        raise OSError(self.code, "refused")


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (errno.EACCES, StorageError, "give a port from 1024"),
        (errno.EADDRNOTAVAIL, ConfigError, "an address of this machine"),
        (errno.EADDRINUSE, UserError, "--port 65534"),
    ],
)
def test_what_the_system_refuses(code: int, kind: type[HeedfulError], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", Refusing)
    monkeypatch.setattr(Refusing, "code", code)
    with pytest.raises(kind, match=words):
        listen("127.0.0.1", 65_535, command="heedful serve")


@pytest.mark.parametrize("host", ["\x00", "a" * 300, "\ud800"])
def test_what_is_no_address(host: str) -> None:
    with pytest.raises(ConfigError, match="cannot be listened on"):
        listen(host, 0, command="heedful web")


@pytest.mark.parametrize("port", [-1, 65_536, 99_999])
def test_what_is_no_port(port: int) -> None:
    with pytest.raises(ConfigError, match="give --port 8001"):
        check_port(port, usual=8001)


def test_ports_that_are_ports() -> None:
    check_port(0, usual=8000)
    check_port(65_535, usual=8000)


def test_who_reaches_an_address() -> None:
    assert is_loopback("127.0.0.1")
    assert not is_loopback("0.0.0.0")
