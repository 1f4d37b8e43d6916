"""Searches files for marked texts in several encodings."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path


class Canaries:
    """Texts that share a unique mark of lower-case letters and digits."""

    def __init__(self, mark: str) -> None:
        assert re.fullmatch("[a-z0-9]{10,}", mark)
        self.mark = mark
        self._plain = re.compile(re.escape(mark.encode()) + rb"[-a-z0-9]*")
        self._wide = re.compile(b"|".join(re.escape(mark.encode(form)) for form in ("utf-16-le", "utf-16-be")))
        self._exact = [*self._in_base64(), mark.encode().hex().encode(), mark.encode().hex().upper().encode()]

    def called(self, place: str) -> str:
        """A text for one place."""
        return f"{self.mark}-{place}"

    def _in_base64(self) -> Iterator[bytes]:
        """The mark inside a longer text, at each of the three alignments of base64, without its edges."""
        mark = self.mark.encode()
        for offset in range(3):
            encoded = base64.b64encode(bytes(offset) + mark + bytes(3))
            yield encoded[-(-offset * 8 // 6) : (offset + len(mark)) * 8 // 6]

    def found_in(self, directory: Path) -> set[tuple[str, str]]:
        """(text or encoding, path) of each find."""
        found: set[tuple[str, str]] = set()
        for path in directory.rglob("*"):
            if path.is_file():
                found |= {(what, str(path.relative_to(directory))) for what in self._in(path.read_bytes())}
        return found

    def _in(self, data: bytes) -> Iterator[str]:
        lower = data.lower()
        yield from {match.decode() for match in self._plain.findall(lower)}
        if self._wide.search(lower):
            yield "in UTF-16"
        if any(needle in data for needle in self._exact):
            yield "in base64 or hexadecimal"
