"""Answers `HEAD` like `GET`, without a body (RFC 9110, section 9.3.2)."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadMiddleware:
    """Passes `HEAD` on as `GET`: the same checks, audit row, status and headers. The access log shows `HEAD`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        complete = asyncio.Event()

        async def send_without_body(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
            elif not complete.is_set():
                complete.set()
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        async def receive_end() -> Message:
            # Ends a streamed answer: its other parts are not even read.
            await complete.wait()
            return {"type": "http.disconnect"}

        # A copy: the server needs the method as it was sent, and the access log the route.
        answered = {**scope, "method": "GET"}
        try:
            await self._app(answered, receive_end, send_without_body)
        finally:
            if "route" in answered:
                scope["route"] = answered["route"]
