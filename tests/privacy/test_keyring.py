"""The key file: created once, readable by its owner only, and rejected with one sentence if unusable."""

from __future__ import annotations

import base64
import json
import re
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from privacy.keyring import KEY_BYTES, KeyFile, KeyFileError, KeySet


def test_a_new_file_is_its_owners_alone_and_stays(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "deep" / "keys.json")
    assert file.create() is True
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    ring = file.load()
    assert file.create() is False
    again = file.load()
    assert again.kek.keys == ring.kek.keys
    assert again.payload.keys == ring.payload.keys
    assert again.blind_index == ring.blind_index
    assert len({ring.blind_index, *ring.kek.keys.values(), *ring.payload.keys.values()}) == 3
    assert list(file.path.parent.iterdir()) == [file.path]


def test_of_several_creators_only_one_writes_the_file(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    with ThreadPoolExecutor(8) as threads:
        wrote = list(threads.map(lambda _: file.create(), range(8)))
    assert wrote.count(True) == 1
    assert list(tmp_path.iterdir()) == [file.path]


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="does not exist"):
        KeyFile(tmp_path / "none.json").load()


def test_a_file_that_others_can_read_is_rejected(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    file.create()
    file.path.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        file.load()


def _drop(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda document: {key: value for key, value in document.items() if key != name}


def _keys(lengths: dict[str, int]) -> dict[str, Any]:
    keys = {name: base64.b64encode(bytes(length)).decode() for name, length in lengths.items()}
    return {"current": next(iter(keys)), "keys": keys}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: "text",
        lambda _: [],
        _drop("kek"),
        _drop("payload"),
        _drop("blind_index"),
        lambda document: document | {"blind_index": "not base64!"},
        lambda document: document | {"blind_index": 5},
        lambda document: document | {"blind_index": ""},
        lambda document: document | {"blind_index": base64.b64encode(b"short").decode()},
        lambda document: document | {"blind_index": base64.b64encode(bytes(KEY_BYTES + 1)).decode()},
        lambda document: document | {"payload": _keys({"a": KEY_BYTES - 1})},
        lambda document: document | {"kek": _keys({"a": KEY_BYTES, "b": 16})},
        lambda document: document | {"kek": _keys({"": KEY_BYTES})},
        lambda document: document | {"kek": _keys({"k" * 256: KEY_BYTES})},
        lambda document: document | {"payload": _keys({"ü": KEY_BYTES})},
        lambda document: document | {"kek": "x"},
        lambda document: document | {"kek": {"current": "gone", "keys": document["kek"]["keys"]}},
        lambda document: document | {"kek": {"current": "a", "keys": {"a": base64.b64encode(b"short").decode()}}},
    ],
)
def test_a_malformed_file_is_rejected_without_showing_a_key(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], Any]
) -> None:
    file = KeyFile(tmp_path / "keys.json")
    file.create()
    document = json.loads(file.path.read_text())
    file.path.write_text(json.dumps(spoil(document)))
    with pytest.raises(KeyFileError) as refused:
        file.load()
    for value in (*document["kek"]["keys"].values(), document["blind_index"]):
        assert value not in str(refused.value)


def test_a_file_without_json_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.touch(mode=0o600)
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(KeyFileError, match="can't be read"):
        KeyFile(path).load()


def test_keys_are_long_enough(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    file.create()
    ring = file.load()
    assert {len(key) for key in (*ring.kek.keys.values(), ring.blind_index)} == {KEY_BYTES}


@pytest.mark.parametrize("where", ["kek", "blind_index"])
def test_base64_with_other_characters_is_rejected(tmp_path: Path, where: str) -> None:
    """Python's decoder skips them unless it validates: a damaged key would be another key."""
    file = KeyFile(tmp_path / "keys.json")
    file.create()
    document = json.loads(file.path.read_text())
    if where == "blind_index":
        document[where] = f"!{document[where]}"
    else:
        document[where]["keys"] = {name: f"!{key}" for name, key in document[where]["keys"].items()}
    file.path.write_text(json.dumps(document))
    with pytest.raises(KeyFileError, match=f"{file.path} is malformed"):
        file.load()


def test_new_keys_are_named_after_their_kind_and_the_folder_is_made(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "a" / "b" / "keys.json")
    assert file.create() is True
    document = json.loads(file.path.read_text())
    for kind in ("kek", "payload"):
        assert re.fullmatch(rf"{kind}-[0-9a-f]{{8}}", document[kind]["current"])
        assert list(document[kind]["keys"]) == [document[kind]["current"]]


def test_an_unusable_set_of_keys_says_why() -> None:
    with pytest.raises(KeyFileError, match="The current key 'gone' is not among the keys"):
        KeySet("gone", {"kek-1": bytes(KEY_BYTES)})
    with pytest.raises(KeyFileError, match=f"Every key must have {KEY_BYTES} bytes"):
        KeySet("kek-1", {"kek-1": bytes(KEY_BYTES - 1)})
