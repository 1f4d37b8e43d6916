"""What the stack's own processes find in their environment."""

from __future__ import annotations

import os
from pathlib import Path

import runtime
from runtime.embedded.certificates import ServerCertificate
from runtime.embedded.home import Home
from runtime.embedded.temporal_server import EmbeddedTemporal
from runtime.settings import Settings

# Stopping the whole stack takes at most 5 s, so a worker gives its activities less than in production.
_WORKER_GRACE_SECONDS = "2"


def service_environment(
    home: Home,
    settings: Settings,
    *,
    runtime_url: str,
    owner_url: str,
    temporal: EmbeddedTemporal,
    api_port: int,
    certificate: ServerCertificate | None,
) -> dict[str, str]:
    """The caller's environment, with what the embedded stack decides put over it."""
    environment = {"PERENNIAL_WORKER_GRACEFUL_SHUTDOWN_SECONDS": _WORKER_GRACE_SECONDS, **os.environ}
    environment |= {
        "PERENNIAL_HOME": str(home.path),
        "PERENNIAL_ENVIRONMENT": "embedded",
        "PERENNIAL_DATABASE_URL": runtime_url,
        "PERENNIAL_MIGRATION_DATABASE_URL": owner_url,
        "PERENNIAL_KEY_FILE": str((settings.key_file or home.key_file).resolve()),
        "PERENNIAL_TEMPORAL_ADDRESS": temporal.address,
        "PERENNIAL_TEMPORAL_UI_URL": temporal.ui_url,
        "PERENNIAL_TEMPORAL_TLS": "false",
        "PERENNIAL_API_PORT": str(api_port),
        "PYTHONPATH": _python_path(),
        "PYTHONUNBUFFERED": "1",
    }
    # Every run of a workflow imports its module anew: without bytecode to read it would compile it each time.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    token = codec_token(home, settings)
    if token is not None:
        environment["PERENNIAL_CODEC_TOKEN"] = token
    if certificate is not None:
        environment["PERENNIAL_TLS_CERTIFICATE"] = str(certificate.certificate)
        environment["PERENNIAL_TLS_KEY"] = str(certificate.key)
    return environment


def codec_token(home: Home, settings: Settings) -> str | None:
    """The secret that the pages of the stack's own Web UI and its API share; None where they are not to."""
    return home.secret("codec") if settings.codec_in_ui else None


def _python_path() -> str:
    """Our own modules first, wherever the caller stands: a stray cli.py there is not taken for ours."""
    own = str(Path(runtime.__file__ or "").resolve().parents[1])
    return os.pathsep.join([own, *filter(None, [os.environ.get("PYTHONPATH")])])
