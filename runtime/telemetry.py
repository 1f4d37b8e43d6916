"""Logs as JSON lines that carry the trace id and never personal data, and traces over OTLP.

Exceptions are logged by type and place, without their text: a text may hold what a customer typed. The
Temporal SDK logs each failed activity with its message and traceback; its records pass the same formatter.
"""

from __future__ import annotations

import logging
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import orjson
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from runtime.settings import Settings

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_OURS = ("perennial",)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, trace id, extras, and where an error came from.

    Records of other libraries keep their message's template only: their arguments may be anything.
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
    """A library's message without its arguments; messages built before logging are cut at the first value."""
    text = str(record.msg)
    for mark in ("({", "{'", ": "):
        text = text.split(mark, 1)[0]
    return text[:200]


def configure_logging(settings: Settings) -> None:
    """Send all logs of this process to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for name in ("httpx", "httpcore", "asyncio", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)


def configure_tracing(settings: Settings, service: str) -> TracerProvider | None:
    """Export traces where ``PERENNIAL_OTLP_ENDPOINT`` says; None where it says nothing."""
    if not settings.otlp_endpoint:
        return None
    provider = TracerProvider(resource=Resource.create({"service.name": f"perennial-{service}"}))
    endpoint = settings.otlp_endpoint.rstrip("/") + "/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    trace.set_tracer_provider(provider)
    return provider
