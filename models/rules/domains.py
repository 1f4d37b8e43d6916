"""Domain names in ASCII form: IDNA 2008 with the mapping of UTS 46, non-transitional.

Python's own codec `idna` is IDNA 2003, which turns ``straße.example`` into another domain, ``strasse.example``.
"""

from __future__ import annotations

import idna


def ascii_domain(domain: str) -> str:
    """The domain in lower case, each label as an A-label (``xn--...``). Raises ValueError if IDNA refuses it."""
    if domain.isascii() and "xn--" not in domain.lower():
        return domain.lower()
    return idna.encode(domain, uts46=True).decode("ascii")


def with_ascii_domain(address: str) -> str:
    """An e-mail address with its domain in ASCII form. Raises ValueError if IDNA refuses the domain."""
    local, _, domain = address.rpartition("@")
    return f"{local}@{ascii_domain(domain)}"
