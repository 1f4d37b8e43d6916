"""`docs/consent.md` quotes tests that exist."""

from __future__ import annotations

import re

from tests.support.processes import ROOT

PAGE = (ROOT / "docs" / "consent.md").read_text()


def test_every_sentence_that_the_page_quotes_is_a_test() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    quoted = re.findall(r"\*([a-z][^*|]+)\*", PAGE)
    assert len(quoted) > 5
    for sentence in quoted:
        assert f"def test_{sentence.replace(' ', '_')}(" in tests, sentence
