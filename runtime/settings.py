"""Settings from the environment, prefix ``PERENNIAL_``; read once, by the composition roots."""

from __future__ import annotations

from base64 import b64decode
from email.utils import parseaddr
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

Port = Annotated[int, Field(ge=0, le=65535)]


class BadConfiguration(Exception):
    """The configuration can't be used; the text says in one sentence which setting and why."""


def _url(value: str, schemes: tuple[str, ...], form: str) -> str:
    """A URL of one of these schemes with a host and a port that can be; ValueError otherwise."""
    try:
        parts = urlsplit(value)
        usable = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"it must look like {form}")
    return value


def _postgres_url(value: str) -> str:
    return _url(value, ("postgresql", "postgres"), "postgresql://user:password@host:port/database")


def _smtp_url(value: str) -> str:
    return _url(value, ("smtp", "smtps"), "smtp://[user:password@]host[:port]")


def _http_url(value: str) -> str:
    return _url(value, ("http", "https"), "http://host:port")


def _sender(value: str) -> str:
    address = parseaddr(value)[1]
    if not all(address.rpartition("@")) or any(character in value for character in "\r\n"):
        raise ValueError("it must look like Name <name@example.com>")
    return value


def _host_and_port(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or any(character.isspace() for character in value) or not port.isdecimal() or int(port) > 65535:
        raise ValueError("it must look like host:port")
    return value


def _https_url(value: str) -> str:
    form = "https://host/path (http:// to 127.0.0.1 in the embedded stack)"
    value = _url(value, ("https", "http"), form)
    parts = urlsplit(value)
    if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise ValueError(f"it must look like {form}")
    return value


def _webhook_secret(value: str) -> str:
    try:
        length = len(b64decode(value.removeprefix("whsec_"), validate=True))
    except ValueError:
        length = 0
    if not value.startswith("whsec_") or not 24 <= length <= 64:
        raise ValueError("it must be whsec_ and 24 to 64 bytes in base64")
    return value


PostgresUrl = Annotated[str, AfterValidator(_postgres_url)]
SmtpUrl = Annotated[str, AfterValidator(_smtp_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Sender = Annotated[str, AfterValidator(_sender)]
HttpsUrl = Annotated[str, AfterValidator(_https_url)]
WebhookSecret = Annotated[str, AfterValidator(_webhook_secret)]
HostAndPort = Annotated[str, AfterValidator(_host_and_port)]
Name = Annotated[str, Field(min_length=1, pattern=r"^\S(.*\S)?$")]


class Settings(BaseSettings):
    """Everything a process needs to know about its surroundings.

    A process that gets a setting it can't use refuses to start: see :func:`load_settings`.
    """

    model_config = SettingsConfigDict(env_prefix="PERENNIAL_", env_file=None, extra="ignore")

    home: Path = Path(".perennial")
    """Directory of the embedded stack's state; command-line tools find a running stack through it."""
    environment: Literal["embedded", "development", "staging", "production"] = "production"
    """Only `embedded` allows plain http to 127.0.0.1 for callbacks and webhooks."""

    database_url: PostgresUrl | None = None
    """The runtime role's connection, `postgresql://...`."""
    migration_database_url: PostgresUrl | None = None
    """The owner's connection, for `perennial migrate` (the runtime's where unset), and for workers, which drop
    expired months with it (docs/retention.md)."""
    database_pool_size: int = Field(default=12, ge=1, le=200)
    key_file: Path | None = None
    """Key-encryption, blind-index and payload keys (see docs/runbook.md)."""

    temporal_address: HostAndPort = "127.0.0.1:7233"
    temporal_namespace: Name = "default"
    temporal_ui_url: HttpUrl | None = None
    """Where people find Temporal's Web UI: instances link to it, and its pages may ask `/codec/decode`."""
    codec_in_ui: bool = True
    """Whether the embedded stack's Web UI shows payloads opened, to whoever can open it on this machine."""
    codec_token: Annotated[str, Field(min_length=32, pattern=r"^[A-Za-z0-9]+$")] | None = None
    """Makes `/codec/TOKEN/decode` serve without a key; only in the embedded stack, whose Web UI is given it."""
    temporal_tls: bool = False
    task_queue: Name = "perennial"
    temporal_cli: Path | None = None
    """The `temporal` binary for the embedded stack; else the path is searched, then the package."""

    api_host: str = "127.0.0.1"
    api_port: Port = 8080
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    rate_limit_per_minute: int = Field(default=100, ge=1)
    """Requests a minute for a key that has no limit of its own."""
    max_body_bytes: int = Field(default=8 * 1024 * 1024, ge=1024)

    smtp_url: SmtpUrl | None = None
    """`smtp://[user:password@]host[:port]` (STARTTLS where offered) or `smtps://...`; unset: messages stay in
    the outbox table."""
    smtp_from: Sender = "Perennial <no-reply@example.com>"
    smtp_unconfirmed: Literal["assume_sent", "resend"] = "assume_sent"
    """What to do when a process died between handing a message over and recording it (ADR 0007)."""

    message_webhook_url: HttpsUrl | None = None
    """Where messages of the channel `webhook` are posted; unset: they stay in the outbox table."""
    message_webhook_secret: WebhookSecret | None = None
    """What they are signed with, as Standard Webhooks has it: `whsec_` and 24 to 64 bytes in base64."""
    message_cap: int = Field(default=5, ge=0)
    """How many messages a person gets at most for each purpose within `message_cap_days`; 0: no cap. Service
    messages aren't counted."""
    message_cap_days: float = Field(default=7, gt=0)

    worker_deployment: Name | None = None
    """The name under which Temporal knows this worker's deployment, with `worker_build_id`; unset: not versioned
    (see docs/worker-versioning.md)."""
    worker_build_id: Name | None = None
    """Which build of the code this worker runs."""
    worker_versioning: Literal["auto_upgrade", "pinned"] = "auto_upgrade"
    """Whether an instance goes on with newer code, or ends with what it began with."""
    worker_max_activities: int = Field(default=100, ge=1)
    worker_graceful_shutdown_seconds: float = Field(default=3.0, ge=0, allow_inf_nan=False)
    ready_file: Path | None = None
    """A file that a process writes once it serves; the embedded stack waits for it."""

    otlp_endpoint: HttpUrl | None = None
    """Where traces go (OTLP over HTTP); unset: nowhere."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    def require_database_url(self) -> str:
        """The runtime role's connection, or :class:`BadConfiguration`."""
        if not self.database_url:
            raise BadConfiguration("PERENNIAL_DATABASE_URL is not set; it must name the Postgres to use.")
        return self.database_url

    def require_key_file(self) -> Path:
        """The key file's path, or :class:`BadConfiguration`."""
        if self.key_file is None:
            raise BadConfiguration("PERENNIAL_KEY_FILE is not set; make one with `perennial keyfile create FILE`.")
        return self.key_file


def load_settings() -> Settings:
    """Read the environment. Raises :class:`BadConfiguration` with one sentence, never with a refused value."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = "PERENNIAL_" + "_".join(str(part) for part in first["loc"]).upper()
        reason = str(first["msg"]).removeprefix("Value error, ").rstrip(".")
        raise BadConfiguration(f"{name} can't be used: {reason}.") from None
