import asyncio
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runtime.embedded.certificates import ServerCertificate, ensure_certificate


async def test_the_certificate_serves_tls_1_3_to_clients_that_trust_the_authority(tmp_path: Path) -> None:
    files = ensure_certificate(tmp_path / "tls")
    server = await asyncio.start_server(_close, "127.0.0.1", 0, ssl=_server_side(files))
    port = server.sockets[0].getsockname()[1]
    async with server:
        for name in ("127.0.0.1", "localhost"):
            assert await _version_spoken(port, name, cafile=str(files.authority)) == "TLSv1.3"
        with pytest.raises(ssl.SSLCertVerificationError):
            await _version_spoken(port, "perennial.example.com", cafile=str(files.authority))
        with pytest.raises(ssl.SSLCertVerificationError):
            await _version_spoken(port, "localhost", cafile=None)


def test_a_certificate_is_kept_until_shortly_before_its_end(tmp_path: Path) -> None:
    first = ensure_certificate(tmp_path).certificate.read_bytes()
    authority = (tmp_path / "ca.crt").read_bytes()
    assert ensure_certificate(tmp_path).certificate.read_bytes() == first

    next_year = datetime.now(UTC) + timedelta(days=380)
    assert ensure_certificate(tmp_path, now=next_year).certificate.read_bytes() != first
    assert (tmp_path / "ca.crt").read_bytes() == authority

    much_later = datetime.now(UTC) + timedelta(days=3640)
    ensure_certificate(tmp_path, now=much_later)
    assert (tmp_path / "ca.crt").read_bytes() != authority


def test_private_keys_are_closed_to_others(tmp_path: Path) -> None:
    files = ensure_certificate(tmp_path)
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "ca.key").stat().st_mode) == 0o600


async def _close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def _server_side(files: ServerCertificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(files.certificate, files.key)
    return context


async def _version_spoken(port: int, name: str, *, cafile: str | None) -> str | None:
    context = ssl.create_default_context(cafile=cafile)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    version = writer.get_extra_info("ssl_object").version()
    writer.close()
    return str(version)
