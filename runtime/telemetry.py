"""Logs as JSON lines with the trace id, and traces over OTLP. Neither holds personal data.

The rule for logs:

- Our own loggers (``perennial...``) write constant texts (ruff's rules ``G`` check that) and ``extra`` fields.
- Texts of other libraries may contain personal data. The formatter keeps the template of a text with arguments, or
  a known beginning, and the record's place in the source.
- An exception is logged as its type and places, without its text, which may quote a customer's input.

The same holds for Python's own output on standard error: uncaught exceptions, warnings, and records that can't be
formatted.
"""

from __future__ import annotations

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

WITHHELD = "(text withheld)"
_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_OURS = ("perennial",)
_LONGEST = 200
_EXCEPTION_TEXTS = frozenset({"exception.message", "exception.stacktrace"})

# Beginnings of texts without arguments that an operator needs. The formatter writes only this part of them.
_KNOWN_TEXTS = (
    "Application shutdown failed",
    "Application startup complete",
    "Application startup failed",
    "Beginning worker shutdown",
    "Completing activity as failed",
    "Completing as failure during heartbeat",
    "Exception in ASGI application",
    "Failed activation on workflow",
    "Failed completing activity task",
    "Shutting down",
    "Task exception was never retrieved",
    "Worker failed, shutting down",
)
# Fields that Temporal's SDK adds to its records: ids without personal data.
_TEMPORAL_FIELDS = ("temporal_activity", "temporal_workflow")
_TEMPORAL_IDS = (
    "workflow_type",
    "workflow_id",
    "run_id",
    "workflow_run_id",
    "activity_type",
    "attempt",
    "task_queue",
)

logger = logging.getLogger("perennial.process")


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, trace id, extra fields, and an error's places."""

    def format(self, record: logging.LogRecord) -> str:
        ours = record.name.startswith(_OURS)
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage() if ours else _scrubbed_text(record),
        }
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            line["trace_id"] = f"{span.trace_id:032x}"
        if ours:
            line.update({key: value for key, value in vars(record).items() if key not in _STANDARD_FIELDS})
        else:
            line["at"] = f"{record.filename}:{record.lineno} {record.funcName}"
            line.update(_temporal_ids(record))
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = describe_error(record.exc_info[0], record.exc_info[2])
        return orjson.dumps(line, default=_type_name).decode()


def describe_error(kind: type[BaseException], stack: TracebackType | None) -> dict[str, Any]:
    """Return an exception's type and the last places in its traceback, without its text."""
    frames = traceback.extract_tb(stack)[-8:]
    return {
        "type": f"{kind.__module__}.{kind.__qualname__}",
        "at": [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames],
    }


def _scrubbed_text(record: logging.LogRecord) -> str:
    text = str(record.msg)
    if record.args:
        return text[:_LONGEST]  # the template; the arguments may be personal
    return next((known for known in _KNOWN_TEXTS if text.startswith(known)), WITHHELD)


def _temporal_ids(record: logging.LogRecord) -> dict[str, Any]:
    for field in _TEMPORAL_FIELDS:
        details = getattr(record, field, None)
        if isinstance(details, dict):
            return {"temporal": {name: details[name] for name in _TEMPORAL_IDS if name in details}}
    return {}


def _type_name(value: object) -> str:
    # str() of an object may contain personal data, as that of an exception does.
    return type(value).__name__


class _Lines(logging.StreamHandler[Any]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the base class names it
        # The base class would print the record's text and arguments.
        kind = sys.exc_info()[0]
        line = {"level": "error", "logger": record.name, "message": "a record can't be rendered"}
        place = {"at": f"{record.filename}:{record.lineno}", "error": kind.__name__ if kind else None}
        self.stream.write(orjson.dumps(line | place).decode() + self.terminator)


def configure_logging(settings: Settings) -> None:
    """Write all logs of this process to standard error as JSON lines, and Python's own output there too."""
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
    logger.critical("uncaught exception", extra={"error": describe_error(kind, stack)})


class ScrubbingSpanExporter(SpanExporter):
    """Removes the texts of exceptions from spans before it exports them. The exception's type stays."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._exporter.export([_scrub(span) for span in spans])

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _scrub(span: ReadableSpan) -> ReadableSpan:
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=span.attributes,
        events=[_scrub_event(event) for event in span.events],
        links=span.links,
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _scrub_event(event: Event) -> Event:
    kept = {name: value for name, value in (event.attributes or {}).items() if name not in _EXCEPTION_TEXTS}
    return Event(event.name, kept, event.timestamp)


def configure_tracing(settings: Settings, service: str) -> TracerProvider | None:
    """Export traces to ``PERENNIAL_OTLP_ENDPOINT``; return None where it is not set."""
    if not settings.otlp_endpoint:
        return None
    provider = TracerProvider(resource=Resource.create({"service.name": f"perennial-{service}"}))
    endpoint = settings.otlp_endpoint.rstrip("/") + "/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(ScrubbingSpanExporter(OTLPSpanExporter(endpoint=endpoint))))
    trace.set_tracer_provider(provider)
    return provider
