"""Files in other encodings, with and without a byte order mark, and bytes that are no text."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from clients.importer.encodings import is_encoding
from clients.importer.options import ImportStoppedError
from clients.importer.sources import open_source
from tests.clients.importer.conftest import Ran
from tests.clients.importer.peer import Peer
from tests.clients.importer.test_import import numbers
from tests.clients.importer.test_real_files import MAPPING, ROW, named

Write = Callable[..., Path]
Run = Callable[..., Ran]


@pytest.mark.parametrize(
    ("encoding", "mark", "name"),
    [
        ("utf-8", b"", "Jürgen Łoś"),
        ("utf-8", codecs.BOM_UTF8, "Jürgen Łoś"),
        ("utf-16", b"", "Jürgen Łoś"),
        ("utf-16-le", codecs.BOM_UTF16_LE, "Jürgen Łoś"),
        ("utf-16-be", codecs.BOM_UTF16_BE, "Jürgen Łoś"),
        ("utf-16-le", b"", "Jürgen Łoś"),
        ("utf-32", b"", "Jürgen Łoś"),
        ("iso-8859-2", b"", "Jürgen Łoś"),
        ("cp1250", b"", "Jürgen Łoś"),
        ("windows-1252", b"", "Jürgen Müller"),
        ("cp850", b"", "Jürgen Müller"),
        ("shift_jis", b"", "山田ソ 太郎"),
        ("gb18030", b"", "山田 Łoś"),
    ],
)
@pytest.mark.parametrize("place", ["option", "mapping"])
@pytest.mark.parametrize("suffix", ["csv", "ndjson"])
def test_a_file_is_read_in_its_encoding(
    peer: Peer, write: Write, run: Run, encoding: str, mark: bytes, name: str, place: str, suffix: str
) -> None:
    text = f"id,name,joined\n{ROW}".replace("Jürgen Łoś", name)
    if suffix == "ndjson":
        row = {"id": "a1", "name": name, "joined": "2026-01-05T10:00:00Z"}
        text = json.dumps(row, ensure_ascii=False) + "\n"
    write(f"people.{suffix}", mark + text.encode(encoding))
    mapping = named(encoding=encoding if place == "mapping" else "ascii")
    options = {"encoding": encoding} if place == "option" else {}
    ran = run(f"people.{suffix}", mapping=mapping, **options)
    assert (ran.code, ran.errors) == (0, "")
    assert peer.users["a1"]["name"] == name


def test_utf_16_without_a_byte_order_mark_is_little_endian(write: Write) -> None:
    file = write("a.csv", "id\nЖ\n".encode("utf-16-le"))
    assert [row.values["id"] for row in open_source(file, encoding="utf-16").rows()] == ["Ж"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16"])
@pytest.mark.parametrize("name", ["a.csv", "a.ndjson"])
def test_utf_16_that_is_not_named_stops_with_the_remedy(write: Write, name: str, encoding: str) -> None:
    text = "id\n1\n" if name == "a.csv" else '{"id": "1"}\n'
    with pytest.raises(
        ImportStoppedError, match="this is UTF-16 text; save it as UTF-8, or give --encoding utf-16"
    ):
        open_source(write(name, text.encode(encoding)))


def test_a_byte_order_mark_of_utf_8_is_right_whatever_the_mapping_names(write: Write) -> None:
    file = write("a.csv", codecs.BOM_UTF8 + "id\nЖ\n".encode())
    assert [row.values["id"] for row in open_source(file, encoding="windows-1252").rows()] == ["Ж"]


@pytest.mark.parametrize(
    ("encoding", "bad", "code"),
    [
        ("utf-8", b"\xe4", "invalid_utf8"),
        ("windows-1252", b"\x81", "invalid_encoding"),
        ("shift_jis", b"\xff", "invalid_encoding"),
        ("utf-16-le", b"\x00\xd8", "invalid_encoding"),
        ("utf-16-be", b"\xdc\x00\xdc\x01", "invalid_encoding"),
        ("utf-32-le", b"\x00\x00\x11\x00", "invalid_encoding"),
        ("ascii", "ä".encode(), "invalid_encoding"),
    ],
)
def test_bytes_that_are_no_text_reject_their_row_and_are_kept(
    peer: Peer, write: Write, run: Run, tmp_path: Path, encoding: str, bad: bytes, code: str
) -> None:
    rows = [f"a{n},Ann,2026-01-05T10:00:00Z\n".encode(encoding) for n in (1, 2, 3)]
    rows[1] = "a2,An".encode(encoding) + bad + "n,2026-01-05T10:00:00Z\n".encode(encoding)
    write("people.csv", "id,name,joined\n".encode(encoding) + b"".join(rows))
    ran = run(mapping=named(encoding=encoding))
    assert numbers(ran) == ["3", "2", "2", "0", "0", "1"]
    rejects = tmp_path / "people.rejects.csv"
    [row] = open_source(rejects, encoding=encoding).rows()
    assert (row.values["line"], row.values["code"]) == ("3", code)
    assert numbers(run("people.rejects.csv", mapping=named(encoding=encoding)))[-1] == "1"  # uncorrected
    assert bad in rejects.read_bytes()
    rejects.write_bytes(rejects.read_bytes().replace(bad, b""))
    assert run("people.rejects.csv", mapping=named(encoding=encoding)).code == 0
    assert peer.users["a2"]["name"] == "Ann"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-32-be"])
@pytest.mark.parametrize("cut", [1, 3])
def test_a_file_that_ends_within_a_character_rejects_its_last_row_until_it_is_corrected(
    write: Write, run: Run, tmp_path: Path, encoding: str, cut: int
) -> None:
    text = "id,joined,name\na1,2026-01-05T10:00:00Z,Ann\na2,2026-01-05T10:00:00Z,An\U0001f600"
    write("people.csv", text.encode(encoding)[:-cut])
    assert numbers(run(mapping=MAPPING, encoding=encoding)) == ["2", "1", "1", "0", "0", "1"]
    assert numbers(run("people.rejects.csv", mapping=MAPPING, encoding=encoding))[-1] == "1"


def test_a_rejects_file_has_the_encoding_of_its_input(peer: Peer, write: Write, run: Run) -> None:
    peer.refuse = {"a1": "no"}
    write("people.csv", f"id,name,joined\n{ROW}".encode("iso-8859-2"))
    assert run(encoding="iso-8859-2", mapping=MAPPING).code == 1
    peer.refuse = {}
    assert run("people.rejects.csv", encoding="iso-8859-2", mapping=MAPPING).code == 0
    assert peer.users["a1"]["name"] == "Jürgen Łoś"


@pytest.mark.parametrize(
    "name", ["utf8x", "rot13", "base64", "", "\x00", "undefined", "idna", "punycode", "unicode_escape", "latin-1"]
)
def test_only_encodings_of_text_are_known(name: str) -> None:
    assert is_encoding(name) is (name == "latin-1")


def test_a_header_of_another_encoding_stops_with_the_remedy(write: Write) -> None:
    with pytest.raises(ImportStoppedError, match=r"aren't UTF-8 text\. Name the file's encoding with --encoding"):
        open_source(write("a.csv", "id,größe\n".encode("latin-1")))
