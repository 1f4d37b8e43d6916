"""The supervisor with real Postgres and Temporal.

A stand-in replaces the API and the workers: it starts fast and fails on demand. test_stack.py runs the real ones.
"""

import json
import signal
import socket
import ssl
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.embedded.directories import temporary_directory
from tests.embedded.running import ANY_PORTS, STAND_IN, RunningStack, allowed, assert_gone


@pytest.mark.slow
def test_every_killed_part_restarts_on_its_address_and_a_stop_ends_all(directory: Path) -> None:
    with RunningStack(directory / "home", *ANY_PORTS, "--workers", "2", command=STAND_IN) as stack:
        before = stack.endpoints
        assert len(set(before["workers"])) == 2
        for name, pid in before["pids"].items():
            psutil.Process(pid).kill()
            stack.wait_until_back(name, pid)
        after = stack.endpoints
        for name in ("api", "temporal", "temporal_ui", "postgres"):
            assert after[name] == before[name]
        processes = stack.family()
        code, seconds = stack.stop(signal.SIGINT)
    assert code == 0
    assert seconds < allowed(5)
    assert_gone(processes, within=0)
    assert not (stack.home / "endpoints.json").exists()


@pytest.fixture(scope="module")
def tls_stack() -> Iterator[RunningStack]:
    with (
        temporary_directory() as path,
        RunningStack(path / "home", *ANY_PORTS, "--tls", command=STAND_IN) as stack,
    ):
        yield stack


def test_endpoints_are_as_the_contract_says_and_closed_to_others(tls_stack: RunningStack) -> None:
    endpoints = tls_stack.endpoints
    assert endpoints.keys() == {
        "api", "temporal", "temporal_ui", "postgres", "admin_key_file", "pids", "workers", "ca_file",
    }  # fmt: skip
    assert endpoints["pids"].keys() == {"api", "worker", "temporal", "postgres"}
    assert stat.S_IMODE((tls_stack.home / "endpoints.json").stat().st_mode) == 0o600
    tls_stack.wait_for(lambda: "Ctrl-C stops everything." in tls_stack.output)
    for address in ("api", "temporal_ui", "temporal", "admin_key_file", "ca_file"):
        assert endpoints[address] in tls_stack.output
    assert endpoints["postgres"] not in tls_stack.output


def test_clients_that_trust_the_authority_of_the_home_connect_over_tls(tls_stack: RunningStack) -> None:
    address = f"{tls_stack.endpoints['api']}/health/ready"
    trusted = ssl.create_default_context(cafile=tls_stack.endpoints["ca_file"])
    assert address.startswith("https://127.0.0.1:")
    assert httpx.get(address, verify=trusted, trust_env=False).status_code == 200
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(address, trust_env=False)


def test_a_home_in_use_is_one_sentence(tls_stack: RunningStack) -> None:
    second = RunningStack(tls_stack.home, command=STAND_IN)
    assert second.process.wait(20) == 1
    assert f"another running stack (process {tls_stack.process.pid})" in second.output
    assert second.output.count("\n") == 1
    assert (tls_stack.home / "endpoints.json").exists()


@pytest.mark.slow
def test_all_processes_end_with_a_killed_supervisor_and_the_next_one_starts(directory: Path) -> None:
    stack = RunningStack(directory / "home", command=STAND_IN)
    stack.wait_until_up()
    processes = stack.family()
    stack.process.kill()
    stack.process.wait()
    assert_gone(processes, within=5)
    (stack.home / "endpoints.json").unlink()  # a killed supervisor leaves it
    with RunningStack(directory / "home", command=STAND_IN) as again:
        assert again.endpoints["pids"]["postgres"]


@pytest.mark.slow
def test_a_stop_during_the_start_ends_every_process(directory: Path) -> None:
    stack = RunningStack(directory / "home", command=STAND_IN)
    stack.wait_for(lambda: "temporal is up" in stack.output)
    processes = stack.family()
    code, seconds = stack.stop()
    assert (code, seconds < allowed(5)) == (0, True), stack.output
    assert_gone(processes, within=0)


@pytest.mark.parametrize("flag", ["--api-port", "--temporal-port", "--ui-port"])
def test_a_taken_port_is_one_sentence_that_names_the_option(directory: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        arguments = list(ANY_PORTS)
        arguments[arguments.index(flag) + 1] = str(port)
        stack = RunningStack(directory / "home", *arguments, command=STAND_IN)
        assert stack.process.wait(20) == 1
    wanted = f"Port {port} is taken; choose another one with {flag} (0 picks a free one).\n"
    assert stack.output == wanted


@pytest.mark.parametrize(("first", "second"), [("--api-port", "--ui-port"), ("--api-port", "--temporal-port")])
def test_the_same_port_twice_is_one_sentence(directory: Path, first: str, second: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])  # taken, so that no other program can have it
        arguments = [*ANY_PORTS, first, port, second, port]
        stack = RunningStack(directory / "home", *arguments, command=STAND_IN)
        assert stack.process.wait(20) == 1
    assert stack.output == f"Port {port} is asked for twice; choose another one with {second}.\n"


def test_a_home_that_cannot_be_made_is_one_sentence(directory: Path) -> None:
    (directory / "file").touch()
    with pytest.raises(NotADirectoryError):
        (directory / "file" / "home").mkdir()
    arguments = [*ANY_PORTS, "--home", str(directory / "file" / "home")]
    stack = RunningStack(directory / "home", *arguments, command=STAND_IN)
    assert stack.process.wait(20) == 1
    assert "can't be used: Not a directory.\n" in stack.output
    assert stack.output.count("\n") == 1


@pytest.mark.slow
def test_a_failing_preparation_ends_it_with_the_reason(directory: Path) -> None:
    stack = RunningStack(directory / "home", command=STAND_IN, environment={"STAND_IN_FAILS": "bootstrap"})
    assert stack.process.wait(30) == 1
    assert "The database could not be prepared (the bootstrap can't continue); see" in stack.output
    assert not (directory / "home" / "endpoints.json").exists()


@pytest.mark.slow
def test_a_part_that_never_starts_ends_it_with_the_reason(directory: Path) -> None:
    stack = RunningStack(directory / "home", command=STAND_IN, environment={"STAND_IN_FAILS": "worker"})
    assert stack.process.wait(90) == 1
    last = [line for line in stack.output.splitlines() if line][-1]
    assert last.startswith("The worker ended with exit code 3 before it served (the worker can't continue)")
    assert str(directory / "home" / "logs" / "worker.log") in last


@pytest.mark.slow
@pytest.mark.parametrize(("signals", "at_least", "at_most"), [(1, 2.0, 5.0), (2, 0.5, 2.0)])
def test_a_worker_that_ignores_sigterm_is_killed_in_time_or_at_once_by_a_second_signal(
    directory: Path, signals: int, at_least: float, at_most: float
) -> None:
    environment = {"STAND_IN_STUBBORN": "worker"}
    with RunningStack(directory / "home", command=STAND_IN, environment=environment) as stack:
        processes = stack.family()
        began = time.monotonic()
        stack.process.send_signal(signal.SIGINT)
        if signals == 2:
            time.sleep(0.5)
            stack.process.send_signal(signal.SIGINT)
        assert stack.process.wait(20) == 0
        assert at_least <= time.monotonic() - began < allowed(at_most)
    assert_gone(processes, within=0)


@pytest.mark.slow
def test_a_given_database_is_used_and_none_is_started(directory: Path) -> None:
    url = "postgresql://somebody:secret@127.0.0.1:5432/somewhere"
    environment = {"PERENNIAL_DATABASE_URL": url}
    with RunningStack(directory / "home", command=STAND_IN, environment=environment) as stack:
        assert stack.endpoints["postgres"] == url
        assert "postgres" not in stack.endpoints["pids"]
        assert "secret" not in stack.output
        assert json.loads((stack.home / "run" / "processes.json").read_text())
