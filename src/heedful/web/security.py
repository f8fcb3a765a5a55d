"""Guards for every request: headers, the size limit, signed values, safe addresses for redirects."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    # A shared conversation is for those who have its link, not for search engines.
    "X-Robots-Tag": "noindex, nofollow",
}
STRICT_TRANSPORT = "max-age=31536000"

log = logging.getLogger("heedful.web")


BODY_SECONDS = 30.0
"""How long the server waits for the next piece of a request."""


class TooLarge(Exception):
    """The body is larger than the limit."""


class Shield:
    """ASGI middleware: the headers on every response, a limit on every body, and no internals in any failure."""

    def __init__(
        self, app: ASGIApp, *, secure: bool, max_body_bytes: int, on_failure: Callable[[Request, int], Response]
    ) -> None:
        self.app = app
        self.headers = HEADERS | ({"Strict-Transport-Security": STRICT_TRANSPORT} if secure else {})
        self.max_body_bytes = max_body_bytes
        self.on_failure = on_failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, complete, read = False, False, 0

        async def guarded_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers[name] = value
                # Keep what people wrote out of shared caches and off the disk of a shared machine.
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        async def guarded_receive() -> Message:
            nonlocal read, complete
            # Once the body is complete, the same call only waits for the visitor to leave.
            async with asyncio.timeout(None if complete else BODY_SECONDS):
                message = await receive()
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                complete = not message.get("more_body", False)
                if read > self.max_body_bytes:
                    raise TooLarge
            return message

        request = Request(scope)
        try:
            if declared_length(request) > self.max_body_bytes:
                raise TooLarge
            if _holds_null(scope):
                await self.on_failure(request, 400)(scope, receive, guarded_send)
                return
            await self.app(scope, guarded_receive, guarded_send)
        except TooLarge:
            if started:
                raise
            await self.on_failure(request, 413)(scope, receive, guarded_send)
        except TimeoutError:
            if started or complete:
                raise
            await self.on_failure(request, 408)(scope, receive, guarded_send)
        except Exception:
            # Log only the path: a query or a body may hold what people wrote.
            log.exception("failed: %s %s", request.method, request.url.path)
            if started:
                raise
            await self.on_failure(request, 500)(scope, receive, guarded_send)


def _holds_null(scope: Scope) -> bool:
    """Whether the address contains a NUL character, which PostgreSQL cannot look up."""
    return "\x00" in scope["path"] or b"%00" in scope.get("query_string", b"") or b"\x00" in scope.get("query_string", b"")


def declared_length(request: Request) -> int:
    """The body length that a request declares; 0 if it declares none that can be read."""
    length = request.headers.get("content-length", "0")
    # Python refuses to convert numbers of thousands of digits.
    return int(length[:20]) if length.isascii() and length.isdigit() else 0


def sign(key: bytes, purpose: str, value: str) -> str:
    """The value with a signature in front, which is valid for one purpose only."""
    return hmac.new(key, f"{purpose}\n{value}".encode(), hashlib.sha256).hexdigest() + "." + value


def signed_value(key: bytes, purpose: str, signed: str) -> str | None:
    """The signed value; None if it was not signed with this key for this purpose."""
    value = signed.partition(".")[2]
    return value if hmac.compare_digest(sign(key, purpose, value).encode(), signed.encode(errors="replace")) else None


def is_same(given: str | None, expected: str) -> bool:
    """Whether two tokens are equal, in constant time."""
    return given is not None and hmac.compare_digest(given.encode(errors="replace"), expected.encode())


def comes_from_elsewhere(request: Request) -> bool:
    """Whether the browser says that another site made it send this request."""
    return request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")


def safe_next(target: str | None) -> str | None:
    """The path to go to after logging in, if it belongs to this application; else None (never another site)."""
    if not target or not target.startswith("/") or target.startswith("//") or len(target) > 2_000:
        return None
    if "\\" in target or any(ord(character) < 32 or ord(character) == 127 for character in target):
        return None
    try:
        parts = urlsplit(target)
    except ValueError:
        return None
    return None if parts.scheme or parts.netloc else target
