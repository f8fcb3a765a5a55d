"""A streamed response that always closes its source: at the end, on an error, and when the visitor leaves."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from anyio import CancelScope
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class ClosingStream(StreamingResponse):
    """When a visitor leaves, Starlette leaves the generator to the garbage collector; this closes it at once."""

    def __init__(self, source: AsyncGenerator[bytes, None], *, headers: dict[str, str] | None = None) -> None:
        # Proxies such as nginx must pass each piece on.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"} | (headers or {})
        super().__init__(source, media_type="text/event-stream", headers=headers)
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            with CancelScope(shield=True):
                await self._source.aclose()
