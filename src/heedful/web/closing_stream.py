"""A streamed response that is always brought to an end: when it is complete, on an error, and when the visitor leaves."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable

from anyio import CancelScope
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class ClosingStream(StreamingResponse):
    """When a visitor leaves, Starlette leaves the generator to the garbage collector; this closes it at once.

    end: called last, whatever happened. A visitor may leave before the source has begun, and then no ``finally`` in it runs.
    """

    def __init__(
        self,
        source: AsyncGenerator[bytes, None],
        end: Callable[[], Awaitable[None]],
        *,
        headers: dict[str, str] | None = None,
    ) -> None:
        # Proxies such as nginx must pass each piece on.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"} | (headers or {})
        super().__init__(source, media_type="text/event-stream", headers=headers)
        self._source, self._end = source, end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            with CancelScope(shield=True):
                await self._source.aclose()
                await self._end()
