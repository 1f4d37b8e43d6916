"""The codes of countries, languages, time zones and currencies."""

from __future__ import annotations

import subprocess
import sys

import pytest

from models.rules.standards import countries, currencies, is_language, time_zones


def test_the_countries_are_those_that_iso_has_assigned() -> None:
    assert len(countries()) == 249
    assert {"DE", "TL", "BQ"} <= countries()
    assert not countries() & {"XK", "EU", "UK", "AN", "ZZ", "de"}


def test_withdrawn_currencies_remain_since_old_orders_and_their_refunds_have_them() -> None:
    assert {"EUR", "USD", "XCG", "BGN", "HRK", "DEM"} <= currencies()
    assert not currencies() & {"XYZ", "XXX", "XTS", "eur"}


def test_zones_and_their_links_are_those_of_tzdata_not_of_the_machine() -> None:
    assert {"Europe/Berlin", "Asia/Calcutta", "Asia/Kolkata", "UTC", "US/Pacific"} <= time_zones()
    assert not time_zones() & {"localtime", "Factory", "europe/berlin", "posixrules"}


@pytest.mark.parametrize(
    "tag", ["de", "de-de", "DE-DE", "pt-BR", "zh-Hant-TW", "es-419", "sl-rozaj", "en-u-ca-gregory"]
)
def test_a_language_tag_has_registered_subtags_in_any_case(tag: str) -> None:
    assert is_language(tag)


@pytest.mark.parametrize(
    "tag", ["", "xx", "german", "de_DE", "de-Latin", "de-DE-Latn", "de-abcde", "x-private", "de\n"]
)
def test_other_texts_are_no_language_tags(tag: str) -> None:
    assert not is_language(tag)


def test_the_libraries_are_imported_at_their_first_use() -> None:
    code = "import sys, api.app, worker; print(sorted({'babel', 'langcodes', 'iso3166'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
