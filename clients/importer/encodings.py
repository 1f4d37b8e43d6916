"""Text files in the encoding that the user names. Bytes that aren't text are kept, to be written again."""

from __future__ import annotations

import codecs
from itertools import takewhile
from pathlib import Path
from typing import Literal, TextIO

from clients.importer.options import ImportStoppedError

DEFAULT = "utf-8"
AN_ENCODING = "the name of an encoding, such as utf-8, windows-1252, iso-8859-15 or utf-16"
_KEEP = "perennial.keep"
_NOT_OF_FILES = ("idna", "punycode", "unicode-escape", "raw-unicode-escape")
"""Python's encodings of names and of literals in programs."""
_HALF = 0xD800
_FIRST, _LAST = 0xDC00, 0xDCFF
"""The lone surrogates that stand for bytes, as with Python's `surrogateescape`."""


def _keep(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeDecodeError):
        return "".join(chr(_FIRST + byte) for byte in error.object[error.start : error.end]), error.end
    assert isinstance(error, UnicodeEncodeError)
    coming = (ord(error.object[place]) for place in range(error.start, len(error.object)))
    kept = bytes(code - _FIRST for code in takewhile(_is_kept, coming))
    if not kept:
        return "?" * (error.end - error.start), error.end
    return _in_units(kept, error.encoding), error.start + len(kept)


def _is_kept(code: int) -> bool:
    return _FIRST <= code <= _LAST


def _in_units(kept: bytes, encoding: str) -> bytes:
    """Bytes that aren't text, in whole units of an encoding. They don't become text by what follows them."""
    unit = 2 if encoding.startswith("utf-16") else 4 if encoding.startswith("utf-32") else 1
    whole = len(kept) // unit * unit
    order: Literal["big", "little"] = "big" if encoding.endswith("be") else "little"
    # the file ended within a unit: each byte becomes half a surrogate pair
    return kept[:whole] + b"".join((_HALF + byte).to_bytes(unit, order) for byte in kept[whole:])


codecs.register_error(_KEEP, _keep)


def is_encoding(name: object) -> bool:
    """Whether Python knows an encoding of texts by this name."""
    if not isinstance(name, str):
        return False
    try:
        if codecs.lookup(name).name.replace("_", "-") in _NOT_OF_FILES:
            return False
        return "id,name\n".encode(name).decode(name) == "id,name\n"
    except (LookupError, ValueError):
        return False


def encoding_of(path: Path, named: str) -> str:
    """The encoding of a file: that of its byte order mark, or else the named one.

    Raises :class:`ImportStoppedError` for UTF-16 that isn't named, with or without a mark.
    """
    named = codecs.lookup(named).name
    with path.open("rb") as file:
        start = file.read(4)
    if start[:3] == codecs.BOM_UTF8:
        return "utf-8-sig"
    marked = start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    units = b"\0\0" in (start[::2], start[1::2])
    if (marked or units) and not named.startswith(("utf-16", "utf-32")):
        raise ImportStoppedError(f"{path}: this is UTF-16 text; save it as UTF-8, or give --encoding utf-16.")
    if named in ("utf-16", "utf-32") and not marked:
        return f"{named}-le"  # Python's decoder asks for a mark
    return named


def open_text(path: Path, encoding: str, mode: str = "r") -> TextIO:
    """Open a file, with its line ends as they are."""
    file: TextIO = path.open(mode, encoding=encoding, errors=_KEEP, newline="")  # type: ignore[assignment]
    return file
