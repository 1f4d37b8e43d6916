"""Swagger UI at `/docs`, from the files of the package `fastapi-swagger`: see ADR 0019."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",  # the style sheet carries its icons as data
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Perennial API</title>
<link rel="icon" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
<script src="/docs/swagger-ui-bundle.js" defer></script>
<script src="/docs/start.js" defer></script>
</head>
<body><div id="swagger-ui"></div></body>
</html>
"""

# A separate file, since the policy allows no inline script. The key is in memory only, until a reload.
_START = b"""SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  persistAuthorization: false,
  validatorUrl: null
});
"""


@dataclass(frozen=True)
class Asset:
    """A file that the page loads."""

    content: bytes
    media_type: str
    etag: str


def _asset(content: bytes, media_type: str) -> Asset:
    return Asset(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def _packaged(name: str, media_type: str) -> Asset:
    return _asset((files("fastapi_swagger") / "resources" / name).read_bytes(), media_type)


ASSETS: Mapping[str, Asset] = {
    "start.js": _asset(_START, "text/javascript"),
    "swagger-ui-bundle.js": _packaged("swagger-ui-bundle.js", "text/javascript"),
    "swagger-ui.css": _packaged("swagger-ui.css", "text/css"),
    "favicon-32x32.png": _packaged("favicon-32x32.png", "image/png"),
}
"""By name. The API never builds a file path from a request."""
