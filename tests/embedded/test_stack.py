"""The whole stack as `make run` starts it, with the real API and workers."""

import signal
import ssl
from pathlib import Path

import httpx
import psutil
import pytest

from tests.embedded.running import ANY_PORTS, RunningStack, allowed, assert_gone

pytestmark = pytest.mark.slow


def is_ready(stack: RunningStack) -> bool:
    endpoints = stack.endpoints
    trusted: ssl.SSLContext | bool = True
    if "ca_file" in endpoints:
        trusted = ssl.create_default_context(cafile=endpoints["ca_file"])
    try:
        with httpx.Client(verify=trusted, trust_env=False) as client:
            return client.get(f"{endpoints['api']}/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def keys_of(stack: RunningStack) -> list[dict[str, object]]:
    key = Path(stack.endpoints["admin_key_file"]).read_text().strip()
    with httpx.Client(trust_env=False, headers={"Authorization": f"Bearer {key}"}) as client:
        answer = client.get(f"{stack.endpoints['api']}/keys")
    answer.raise_for_status()
    data = answer.json()["data"]
    assert isinstance(data, list)
    return data


def test_one_command_serves_and_one_signal_ends_it(directory: Path) -> None:
    with RunningStack(directory / "home") as stack:
        assert is_ready(stack)
        assert [key["name"] for key in keys_of(stack)] == ["admin"]
        with httpx.Client(trust_env=False) as client:
            assert "<html" in client.get(stack.endpoints["temporal_ui"]).text.lower()
            assert_the_web_ui_decrypts_payloads(stack, client)
        processes = stack.family()
        code, seconds = stack.stop()
    assert code == 0
    assert seconds < allowed(5)
    assert_gone(processes, within=0)


def assert_the_web_ui_decrypts_payloads(stack: RunningStack, client: httpx.Client) -> None:
    """Do as its pages do: read the codec's address, ask for permission, and send a payload."""
    ui = stack.endpoints["temporal_ui"]
    codec = client.get(f"{ui}/api/v1/settings").json()["Codec"]["Endpoint"]
    assert codec == f"{ui}/codec", "the page gets no token"
    assert client.get(ui, headers={"host": "rebound.example"}).status_code == 421
    asked = client.options(f"{codec}/decode?preserveStorageRefs=true", headers={"origin": ui})
    assert asked.headers["access-control-allow-origin"] == ui
    plain = {"metadata": {"encoding": "anNvbi9wbGFpbg=="}, "data": "MQ=="}
    opened = client.post(f"{codec}/decode?preserveStorageRefs=true", json={"payloads": [plain]})
    assert opened.json() == {"payloads": [plain]}


@pytest.mark.parametrize("name", ["api", "worker", "temporal", "postgres"])
def test_a_killed_part_restarts_and_the_stack_is_healthy(directory: Path, name: str) -> None:
    with RunningStack(directory / "home") as stack:
        before = stack.endpoints
        old = before["pids"][name]
        psutil.Process(old).kill()
        stack.wait_until_back(name, old)
        stack.wait_for(lambda: is_ready(stack))
        after = stack.endpoints
        assert {**after, "pids": 0, "workers": 0} == {**before, "pids": 0, "workers": 0}
        assert keys_of(stack)


def test_a_second_start_keeps_the_data(directory: Path) -> None:
    with RunningStack(directory / "home") as stack:
        keys = keys_of(stack)
    with RunningStack(directory / "home") as stack:
        assert [key["id"] for key in keys_of(stack)] == [key["id"] for key in keys]


def test_two_stacks_run_side_by_side(directory: Path) -> None:
    first, second = RunningStack(directory / "one"), RunningStack(directory / "two")
    with first, second:
        assert is_ready(first)
        assert is_ready(second)
        assert keys_of(first)[0]["id"] != keys_of(second)[0]["id"]
        assert not set(first.endpoints["pids"].values()) & set(second.endpoints["pids"].values())
        first.stop(signal.SIGINT)
        assert is_ready(second)


def test_all_processes_end_with_a_killed_supervisor(directory: Path) -> None:
    with RunningStack(directory / "home", *ANY_PORTS, "--workers", "2") as stack:
        processes = stack.family()
        stack.process.kill()
        stack.process.wait()
        assert_gone(processes, within=5)


def test_the_api_speaks_tls_when_asked(directory: Path) -> None:
    with RunningStack(directory / "home", *ANY_PORTS, "--tls") as stack:
        assert stack.endpoints["api"].startswith("https://")
        assert is_ready(stack)
