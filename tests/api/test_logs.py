"""The log of the API: one line for each request, without any value that was sent."""

from __future__ import annotations

import json

import httpx

from tests.support.builders import user
from tests.support.http import Clients
from tests.support.logs import logged

CANARY = "kanarie@example.com"


async def test_the_api_logs_no_value_that_it_receives(api: Clients) -> None:
    with logged() as lines:
        await send_everything(api)
    text = json.dumps(lines())
    assert "kanarie" not in text.lower()
    assert sum(line["logger"] == "perennial.access" for line in lines()) == 7


async def send_everything(api: Clients) -> None:
    async def sent(answer: httpx.Response, status: int) -> None:
        assert answer.status_code == status, answer.text

    await sent(await api.admin.post("/users", json=user(email=CANARY, name="Kanarie")), 201)
    await sent(await api.admin.post("/users", json=user(email="kanarie", name="")), 422)
    await sent(await api.admin.post("/users", content=b'{"kanarie": '), 415)
    await sent(await api.admin.post("/users/search", json={"email": CANARY}), 200)
    await sent(await api.admin.get("/users/kanarie%40example.com"), 404)
    await sent(await api.admin.get("/kanarie"), 404)
    await sent(await api.admin.get("/users", params={"email": CANARY}, headers={"X-API-Key": CANARY}), 401)
