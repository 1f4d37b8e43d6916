"""A first run on a machine makes Postgres's system user once, however many stacks start at once."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.embedded.machine import open_to_others
from tests.embedded.running import ROOT

NEW_MACHINE = ROOT / ".ci" / "new-machine"


@pytest.fixture
def etc(directory: Path) -> Path:
    """An empty directory to become /etc; skips where this machine does not allow that."""
    if os.geteuid() != 0:
        pytest.skip("only root runs Postgres as another user")
    trial = directory / "trial"
    trial.mkdir()
    tried = subprocess.run([NEW_MACHINE, trial, "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"no mount namespace with an /etc of its own: {tried.stderr.strip()}")
    etc = directory / "etc"
    etc.mkdir()
    return etc


def first_run(etc: Path, *arguments: str) -> None:
    program = [sys.executable, "-m", "tests.embedded.first_run"]
    command: list[str | Path] = [NEW_MACHINE, etc, *program, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_servers_that_start_at_once_on_a_new_machine_run_as_one_user(etc: Path) -> None:
    first_run(etc, "servers", "2", "2")


@pytest.mark.slow
def test_a_killed_start_and_the_next_one_do_not_make_the_user_at_the_same_time(etc: Path) -> None:
    first_run(etc, "killed")


@pytest.mark.slow
def test_servers_that_start_at_once_run_as_one_user_in_every_round(etc: Path) -> None:
    first_run(etc, "servers", "10", "3")


@pytest.mark.slow
def test_whole_stacks_that_start_at_once_on_a_new_machine_all_serve(etc: Path) -> None:
    first_run(etc, "stacks", "2", "3")


def test_program_files_of_a_strict_umask_become_readable_to_all(tmp_path: Path) -> None:
    programs = installation(tmp_path)
    open_to_others(programs)
    assert closed(programs) == []
    assert stat.S_IMODE((programs / "postgres").stat().st_mode) == 0o705
    assert stat.S_IMODE((programs.parent / "share" / "timezone").stat().st_mode) == 0o604


def test_an_interrupted_opening_of_program_files_is_completed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = installation(tmp_path)
    change, left = Path.chmod, 5

    def interrupted(path: Path, mode: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        change(path, mode)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "chmod", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_to_others(programs)
    assert closed(programs)
    open_to_others(programs)
    assert closed(programs) == []


def installation(directory: Path) -> Path:
    """Program files as pip writes them under umask 077; returns the directory of the programs."""
    programs = directory / "install" / "bin"
    share = directory / "install" / "share"
    for made in (programs.parent, programs, share):
        made.mkdir(mode=0o700)
    for program in ("initdb", "postgres", "psql"):
        (programs / program).touch(mode=0o700)
    for file in ("errcodes.txt", "timezone"):
        (share / file).touch(mode=0o600)
    (share / "link").symlink_to("timezone")
    return programs


def closed(programs: Path) -> list[Path]:
    everything = [programs.parent, *programs.parent.rglob("*")]
    return [path for path in everything if not path.stat().st_mode & stat.S_IROTH]
