"""`docs/consent.md` names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "consent.md").read_text()


def test_every_file_that_the_page_names_is_there() -> None:
    named = re.findall(r"`(tests/[\w/.]+)`", PAGE)
    assert named
    for path in named:
        assert (ROOT / path).exists(), path


def test_every_sentence_that_the_page_quotes_is_a_test() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    quoted = re.findall(r"\*([a-z][^*|]+)\*", PAGE)
    assert len(quoted) > 5
    for sentence in quoted:
        assert f"def test_{sentence.replace(' ', '_')}(" in tests, sentence
