"""Which API the commands give the stack's admin key to."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.common import admin_key_of
from runtime.settings import ConfigurationError


def test_the_stacks_admin_key_goes_to_no_other_api(tmp_path: Path) -> None:
    (tmp_path / "admin.key").write_text("prn_admin\n")
    endpoints = {"api": "http://127.0.0.1:8080", "admin_key_file": str(tmp_path / "admin.key")}
    assert admin_key_of(endpoints, None) == "prn_admin"
    assert admin_key_of(endpoints, "http://127.0.0.1:8080/") == "prn_admin"
    with pytest.raises(ConfigurationError, match="--key"):
        admin_key_of(endpoints, "https://elsewhere.example.com")
