"""Entity tags (RFC 9110, 8.8.3 and 13): has it changed since, and is it still what it was?"""

from __future__ import annotations

import re
from collections.abc import Collection

_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_LIST = re.compile(rf"\s*{_TAG.pattern}(\s*,\s*{_TAG.pattern})*\s*")


def strong(value: str) -> str:
    """The entity tag of a representation."""
    return f'"{value}"'


def if_match_holds(header: str | None, tags: Collection[str]) -> bool:
    """Whether a change may go on: no header, `*`, or one of the present tags; a weak one never matches."""
    if header is None:
        return True
    return header.strip() == "*" or any(not weak and tag in tags for weak, tag in _parse(header))


def if_none_match_hits(header: str | None, tag: str) -> bool:
    """Whether the caller has the present representation already, so that 304 is the answer."""
    if header is None:
        return False
    return header.strip() == "*" or any(given == tag for _, given in _parse(header))


def _parse(header: str) -> list[tuple[bool, str]]:
    """The tags of a list, each with whether it is weak; none where the header is malformed."""
    if _LIST.fullmatch(header) is None:
        return []
    return [(bool(weak), strong(value)) for weak, value in _TAG.findall(header)]
