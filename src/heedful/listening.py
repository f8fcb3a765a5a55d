"""Where ``heedful web`` and ``heedful serve`` listen: one check of ports, one socket, one answer to "who reaches it"."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket

from heedful.errors import ConfigError, StorageError, UserError

_BACKLOG = 1_024
"""Connections that may wait to be accepted."""


def check_port(port: int, usual: int) -> None:
    """Refuse what is no port. Raises ConfigError."""
    if not 0 <= port <= 65_535:  # getaddrinfo takes 99999 for 34463
        raise ConfigError("there is no such port", expected="0 to 65535", got=str(port), next_step=f"give --port {usual}")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def listen(host: str, port: int, *, command: str) -> socket.socket:
    """A listening socket, made before anything is loaded: a port that cannot be used is known at once.

    command: what would listen there if it runs already, for the message. Raises UserError, StorageError, ConfigError.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError, ValueError) as error:
        raise ConfigError(
            "that address cannot be listened on",
            expected="an address of this machine, and a port up to 65535",
            got=f"{host}:{port}",
        ) from error
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} is in use",
                expected="a port that nothing listens on",
                got=f"something listens on {host}:{port}; perhaps {command} is running already",
                next_step=f"use it, stop it, or give another port: --port {port + 1 if port < 65_535 else port - 1}",
            ) from None
        if error.errno == errno.EACCES:
            raise StorageError(
                f"port {port} may not be used", got=error.strerror, next_step="give a port from 1024: --port 8000"
            ) from None
        raise ConfigError(
            "that address cannot be listened on", expected="an address of this machine", got=f"{host}: {error.strerror}"
        ) from None
    return listener
