"""Logs as JSON lines that carry the trace id and never personal data, and traces over OTLP.

Exceptions are logged by type and place, without their text: a text may hold what a customer typed. The
Temporal SDK logs each failed activity with its message and traceback; its records pass the same formatter. What
Python itself writes to standard error (an exception that nobody caught, a warning, a record that can't be
rendered) passes it too, and traces leave without the texts of exceptions.
"""

from __future__ import annotations

import inspect
import logging
import sys
import threading
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import orjson
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Status

from runtime.settings import Settings

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_OURS = ("perennial",)
_LONGEST = 200
_SHORTEST = 4
_EXCEPTION_TEXTS = frozenset({"exception.message", "exception.stacktrace"})

logger = logging.getLogger("perennial.process")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, trace id, extras, and where an error came from.

    Records of other libraries keep what their code has written, and nothing of what it was told: see
    :func:`_template`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Render a record."""
        ours = record.name.startswith(_OURS)
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage() if ours else _template(record),
        }
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            line["trace_id"] = f"{span.trace_id:032x}"
        if ours:
            line.update({key: value for key, value in vars(record).items() if key not in _STANDARD})
        else:
            line["at"] = f"{record.filename}:{record.lineno} {record.funcName}"
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = describe_error(record.exc_info[0], record.exc_info[2])
        return orjson.dumps(line, default=str).decode()


def describe_error(kind: type[BaseException], stack: TracebackType | None) -> dict[str, Any]:
    """An exception as its type and the places it passed, without its text."""
    frames = traceback.extract_tb(stack)[-8:]
    return {
        "type": f"{kind.__module__}.{kind.__qualname__}",
        "at": [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames],
    }


def _template(record: logging.LogRecord) -> str:
    """A library's message without its arguments.

    One with arguments is a template. One without may have been put together before: then the longest literal of
    the code that logged it is kept, with which it begins; without any the record says only where it is from.
    """
    text = str(record.msg)
    if not record.args:
        text = max(
            (each for each in _literals(record) if text.startswith(each) and len(each) >= _SHORTEST),
            key=len,
            default="",
        )
    return text[:_LONGEST]


def _literals(record: logging.LogRecord) -> list[str]:
    """The texts in the code of the function that has logged a record; handlers run below it."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_filename == record.pathname and frame.f_lineno == record.lineno:
            return [each for each in frame.f_code.co_consts if isinstance(each, str)]
        frame = frame.f_back
    return []


class _Lines(logging.StreamHandler[Any]):
    """Writes lines; where a record can't be rendered, says so without quoting it as the base class does."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the base class names it
        kind = sys.exc_info()[0]
        line = {"level": "error", "logger": record.name, "message": "a record can't be rendered"}
        place = {"at": f"{record.filename}:{record.lineno}", "error": kind.__name__ if kind else None}
        self.stream.write(orjson.dumps(line | place).decode() + self.terminator)


def configure_logging(settings: Settings) -> None:
    """Send all logs of this process to standard error as JSON lines, and what Python itself would write there."""
    handler = _Lines(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for name in ("httpx", "httpcore", "asyncio", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    sys.unraisablehook = lambda unraisable: _log_uncaught(
        unraisable.exc_type, unraisable.exc_value, unraisable.exc_traceback
    )
    threading.excepthook = lambda uncaught: _log_uncaught(
        uncaught.exc_type, uncaught.exc_value, uncaught.exc_traceback
    )


def _log_uncaught(kind: type[BaseException], error: BaseException | None, stack: TracebackType | None) -> None:
    logger.critical("an exception that nobody caught", extra={"error": describe_error(kind, stack)})


class WithoutTexts(SpanExporter):
    """Exports spans without the texts of exceptions: an error is its type, and where it happened is the span."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Hand the spans on, each without the texts."""
        return self._exporter.export([_without_texts(span) for span in spans])

    def shutdown(self) -> None:
        """End the exporter behind this one."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Let the exporter behind this one send what it holds."""
        return self._exporter.force_flush(timeout_millis)


def _without_texts(span: ReadableSpan) -> ReadableSpan:
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=span.attributes,
        events=[_event_without_texts(event) for event in span.events],
        links=span.links,
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _event_without_texts(event: Event) -> Event:
    kept = {name: value for name, value in (event.attributes or {}).items() if name not in _EXCEPTION_TEXTS}
    return Event(event.name, kept, event.timestamp)


def configure_tracing(settings: Settings, service: str) -> TracerProvider | None:
    """Export traces where ``PERENNIAL_OTLP_ENDPOINT`` says; None where it says nothing."""
    if not settings.otlp_endpoint:
        return None
    provider = TracerProvider(resource=Resource.create({"service.name": f"perennial-{service}"}))
    endpoint = settings.otlp_endpoint.rstrip("/") + "/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(WithoutTexts(OTLPSpanExporter(endpoint=endpoint))))
    trace.set_tracer_provider(provider)
    return provider
