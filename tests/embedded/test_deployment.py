"""The files for deployment, checked without a container engine."""

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtime.embedded import postgres_roles
from runtime.embedded.temporal_server import SEARCH_ATTRIBUTES
from runtime.settings import Settings

ROOT = Path(__file__).parents[2]
SETTING = re.compile(r"^#?PERENNIAL_([A-Z_]+)=(.*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert isinstance(content, dict)
    return content


def test_the_example_environment_names_every_setting_and_no_other() -> None:
    named = [name.lower() for name, _ in SETTING.findall((ROOT / ".env.example").read_text())]
    assert sorted(named) == sorted(Settings.model_fields)


def test_the_example_environment_shows_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PERENNIAL_")]:
        monkeypatch.delenv(name)
    untouched = Settings()
    for line in (ROOT / ".env.example").read_text().splitlines():
        if line.startswith("PERENNIAL_"):
            monkeypatch.setenv(*line.split("=", 1))
    assert Settings() == untouched


def test_the_image_lacks_packages_for_development() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [re.split(r"[<>=\[; ]", each)[0] for each in project["optional-dependencies"]["dev"]]
    recipe = (ROOT / "deploy" / "Dockerfile").read_text()
    taken_out = recipe.partition("pip uninstall --yes")[2].partition("\nFROM")[0].replace("\\", " ").split()
    assert set(wanted) <= set(taken_out)


def test_compose_services_get_settings_that_exist(compose: dict[str, Any]) -> None:
    known = {f"PERENNIAL_{name.upper()}" for name in Settings.model_fields}
    for name in ("migrate", "api", "worker"):
        assert set(compose["services"][name]["environment"]) <= known, name


def test_compose_gives_the_owners_connection_to_migrations_only(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        owns = "perennial_owner" in str(service.get("environment"))
        assert owns == (name == "migrate"), name


def test_compose_publishes_on_the_loopback_only(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_compose_depends_on_services_that_exist_and_mounts_files_that_exist(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith("./") else source in compose["volumes"]


def test_compose_registers_our_search_attributes(compose: dict[str, Any]) -> None:
    command = compose["services"]["temporal-search-attributes"]["command"]
    assert [word.removeprefix("--name=") for word in command if word.startswith("--name=")] == list(
        SEARCH_ATTRIBUTES
    )


def test_compose_makes_the_roles_of_the_embedded_stack() -> None:
    script = ROOT / "deploy" / "initdb" / "10-roles.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK)
    for word in (postgres_roles.OWNER_ROLE, postgres_roles.APP_ROLE, postgres_roles.DATABASE):
        assert word in script.read_text()


def test_the_image_copies_every_package_and_names_no_missing_file() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"benchmarks", "testing", "tests"}
    assert packages <= sources
    assert all((ROOT / source).exists() for source in sources)


def test_the_lock_has_hashes_and_no_address_or_path() -> None:
    lock = (ROOT / "requirements.txt").read_text()
    assert not re.search(r"https?://|file:|^--|^-[a-z]| @ |^/", lock, re.MULTILINE)
    for block in re.split(r"\n(?=[a-z0-9])", lock):
        assert "--hash=sha256:" in block, block.splitlines()[0]


def test_the_lock_has_every_package_that_the_project_declares() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {re.split(r"[\[<>=;~! ]", requirement)[0].lower() for requirement in declared}
    locked = set(re.findall(r"^([a-z0-9-]+)(?:\[.*\])?==", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    assert names <= locked


def test_compose_reaches_the_web_ui_through_a_login_alone(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert "ports" not in services["temporal-ui"]
    assert services["temporal-ui"]["networks"] == services["web-ui-login"]["networks"] == ["web-ui"]
    inside = {name for name, service in services.items() if "web-ui" in service.get("networks", ())}
    assert inside == {"temporal", "temporal-ui", "web-ui-login"}
    login = compose["configs"]["web-ui-login"]["content"]
    for part in ("basic_auth", "not host 127.0.0.1 localhost", "{$$PASSWORD_HASH}"):
        assert part in login
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name


@pytest.mark.parametrize("name", [".env", ".env.production", "deploy/keys.json", "deploy/keys-2026.json"])
def test_git_and_images_ignore_secrets(name: str) -> None:
    assert subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT, check=False).returncode == 0
    ignored = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    assert any(Path(name).match(pattern) for pattern in ignored)


def test_git_keeps_the_example_environment() -> None:
    assert subprocess.run(["git", "check-ignore", "-q", ".env.example"], cwd=ROOT, check=False).returncode == 1
