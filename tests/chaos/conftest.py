"""A stack that sends its mail to the test, and a caller of its API that outlives its parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from testing.mail import MailServer
from tests.embedded.directories import temporary_directory
from tests.embedded.running import RunningStack
from tests.support.builders import user


class LiveStack:
    """A running stack, driven from outside through the contract."""

    def __init__(self, stack: RunningStack, mail: MailServer) -> None:
        self.process = stack
        self.mail = mail
        key = Path(stack.endpoints["admin_key_file"]).read_text().strip()
        self._client = httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=30)

    async def close(self) -> None:
        """Close the caller's connections."""
        await self._client.aclose()

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Call the API until it answers something else than that it is away."""
        async with asyncio.timeout(120):
            while True:
                try:
                    response = await self._client.request(method, self.process.endpoints["api"] + path, **options)
                except (httpx.TransportError, FileNotFoundError):
                    response = None
                if response is not None and response.status_code != 503:
                    return response
                await asyncio.sleep(0.1)

    async def limitless(self) -> None:
        """Go on with a key whose limit isn't in the way."""
        created = await self.call("POST", "/keys", json={"name": "load", "role": "admin", "rate_limit": 1_000_000})
        self._client.headers["Authorization"] = f"Bearer {created.json()['key']}"

    async def customer(self, user_id: str) -> str:
        """A new customer's address."""
        created = await self.call("POST", "/users", json=user(user_id))
        assert created.status_code in (201, 409), created.text
        return f"{user_id}@example.com"

    async def until_finished(self, path: str, within: float = 90) -> dict[str, Any]:
        """The instance once it has ended."""
        async with asyncio.timeout(within):
            while True:
                instance: dict[str, Any] = (await self.call("GET", path)).json()
                if instance["status"] not in ("running", "paused"):
                    return instance
                await asyncio.sleep(0.5)


@pytest.fixture
async def live() -> AsyncIterator[LiveStack]:
    async with MailServer() as mail:
        with temporary_directory() as directory:
            stack = RunningStack(directory / "home", environment={"PERENNIAL_SMTP_URL": mail.url})
            try:
                await asyncio.to_thread(stack.wait_until_up)
                live = LiveStack(stack, mail)
                await live.limitless()
                yield live
                await live.close()
            finally:
                await asyncio.to_thread(stack.__exit__)
