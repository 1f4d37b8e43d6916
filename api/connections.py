"""Bounds the memory and time that a connection takes before its request is authenticated.

uvicorn's protocol with httptools has no such bounds. A request that exceeds one gets an answer and loses its
connection: 431 for its headers, 414 for its address, 408 for its time, 503 if the process has too many
connections. A connection that doesn't take its answer is closed.
"""

from __future__ import annotations

import asyncio
import uuid
from asyncio.events import TimerHandle
from dataclasses import dataclass
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api.request_context import RequestContext, add_headers
from api.responses import problem_response
from models.errors import (
    AddressTooLongError,
    BadRequestError,
    HeadersTooLargeError,
    PerennialError,
    RequestTimeoutError,
    TooManyConnectionsError,
)

MOST_HEADER_BYTES = 64 * 1024
MOST_HEADERS = 100
MOST_ADDRESS_BYTES = 8 * 1024
_MOST_PIPELINED = 16
SLOWEST_BYTES_A_SECOND = 8 * 1024
_PIECE = 4 * 1024
"""Bytes to parse at once while headers are incomplete. The parser reports no unfinished header."""
_CHECK_SECONDS = 1.0
_LINGER_SECONDS = 1.0
_MOST_DROPPED = 1 << 20


@dataclass(frozen=True)
class Limits:
    connections: int
    header_seconds: float
    """From the connection, or the first byte of a later request, until its headers are complete."""
    body_seconds: float
    """For a body, besides a second for each 8 KiB received."""
    write_seconds: float
    """Without any byte of the answer taken by the client."""
    default_quota: int
    """Requests a minute, for the headers of an answer."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection. ``limits`` is set by :func:`bounded`."""

    limits: Limits

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._closing = False
        self._in_headers = False
        self._in_body = False
        self._unparsed = 0
        """Bytes since the headers began, or since the last part of the body."""
        self._received = 0
        self._timer: TimerHandle | None = None
        self._deadline = 0.0
        self._writing: TimerHandle | None = None
        self._unwritten = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(TooManyConnectionsError())
        else:
            self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._stop_timer()
        self.resume_writing()
        super().connection_lost(exc)

    # The request

    def data_received(self, data: bytes) -> None:
        if self._closing:
            self._unparsed += len(data)
            if self._unparsed > _MOST_DROPPED:
                self.transport.close()
            return
        if not self._in_body and self._timer is None:
            self._expect_headers()
        begin = 0
        while begin < len(data) and not self._closing:
            end = len(data) if self._in_body else begin + _PIECE
            piece = data[begin:end] if begin or end < len(data) else data
            self._unparsed += len(piece)
            super().data_received(piece)
            begin = end
            if self._unparsed > MOST_HEADER_BYTES + _PIECE * self._in_body and not self._closing:
                self._refuse(HeadersTooLargeError())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MOST_ADDRESS_BYTES:
            self._refuse(AddressTooLongError())

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= MOST_HEADERS:
            self._refuse(HeadersTooLargeError())
        elif not self._closing:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._closing:
            return
        if len(self.pipeline) >= _MOST_PIPELINED:
            self._refuse(BadRequestError("Wait for answers before sending more requests on a connection."))
            return
        self._in_headers, self._in_body = False, True
        self._unparsed = self._received = 0
        self._stop_timer()
        self._deadline = self.loop.time() + self.limits.body_seconds
        self._timer = self.loop.call_later(_CHECK_SECONDS, self._check_body)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._closing:
            return
        self._received += len(body)
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._closing:
            return
        self._in_body = False
        self._unparsed = 0
        self._stop_timer()
        super().on_message_complete()

    # Time

    def _expect_headers(self) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(self.limits.header_seconds, self._out_of_time)

    def _check_body(self) -> None:
        if self.flow.read_paused:  # the process is slow, and not the client
            self._deadline += _CHECK_SECONDS
        if self.loop.time() > self._deadline + self._received / SLOWEST_BYTES_A_SECOND:
            self._out_of_time()
        else:
            self._timer = self.loop.call_later(_CHECK_SECONDS, self._check_body)

    def _out_of_time(self) -> None:
        self._timer = None
        self._refuse(RequestTimeoutError())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # The answer

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unwritten = self.transport.get_write_buffer_size()
        self._writing = self.loop.call_later(self.limits.write_seconds, self._check_writing)

    def resume_writing(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        super().resume_writing()

    def _check_writing(self) -> None:
        left, before = self.transport.get_write_buffer_size(), self._unwritten
        if left >= before:
            self.transport.abort()
        else:
            self._unwritten = left
            self._writing = self.loop.call_later(self.limits.write_seconds, self._check_writing)

    def send_400_response(self, msg: str) -> None:
        self._refuse(BadRequestError("The request isn't HTTP/1.1."))

    def _refuse(self, error: PerennialError) -> None:
        """Answer, unless an answer has begun, and close the connection."""
        if self._closing:
            return
        self._closing = True
        self._stop_timer()
        if self._may_answer():
            self.transport.write(self._rendered(error))
        if self.transport.can_write_eof() and len(self.connections) < 2 * self.limits.connections:
            # If bytes are unread at the close, TCP discards the answer. So they are read, and dropped.
            self.transport.write_eof()
            self._timer = self.loop.call_later(_LINGER_SECONDS, self.transport.close)
        else:
            self.transport.close()

    def _may_answer(self) -> bool:
        """Whether the next answer is that of the refused request. The application's own answer is then dropped."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return True
        if not self._in_body or self.pipeline or cycle.response_started:
            return False
        cycle.disconnected = True
        cycle.message_event.set()
        return True

    def _rendered(self, error: PerennialError) -> bytes:
        request_id = uuid.uuid4().hex
        response = problem_response(error, request_id)
        message = {"type": "http.response.start", "status": error.status, "headers": response.raw_headers}
        add_headers(message, RequestContext(request_id), self.limits.default_quota)
        headers = [*cast(list[tuple[bytes, bytes]], message["headers"]), (b"connection", b"close")]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        return STATUS_LINE[error.status] + lines + b"\r\n" + bytes(response.body)


def bounded(limits: Limits) -> type[BoundedProtocol]:
    """The class of a server's connections."""
    return type("LimitedProtocol", (BoundedProtocol,), {"limits": limits})
