"""An HTTP server that accepts batches like the API, and can be made to fail."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs

import uvicorn

KEY = "prn_test"
CORE = ("user_id", "email", "name", "signup_date", "account_status", "lifecycle_stage")

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


@dataclass
class Answer:
    """One answer of the server."""

    status: int
    document: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


class Drop:
    """Breaks the connection instead of answering."""


def rejection(index: int, pointer: str, code: str) -> dict[str, Any]:
    error = {"pointer": f"/users/{index}{pointer}", "code": code, "message": "This is not right."}
    return {"index": index, "user_id": None, "status": "rejected", "errors": [error]}


class Peer:
    """An ASGI application that replaces the API in one test."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.users: dict[str, dict[str, Any]] = {}
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.unusual: deque[Answer | Drop] = deque()
        """Answers to the next requests, which are then not executed."""
        self.lose_answers = 0
        """This many requests are executed, and then the connection breaks."""
        self.max_bytes = 8 * 1024 * 1024
        self.events: dict[str, dict[str, Any]] = {}
        self.consents: dict[str, dict[str, dict[str, Any]]] = {}
        """Accepted items of `POST /consents/batch` by user and purpose, without those two members."""
        self.asked: list[list[str]] = []
        """Each request for consents, by item: "u-1 data_collection"."""
        self.queries: list[tuple[str, str]] = []
        """Path and query of each batch."""
        self.refuse_source = ""
        """The code for which each consent is rejected."""
        self.refuse: dict[str, str] = {}
        """User id -> code: these are rejected."""
        self.slow = 0.0
        self.at_once = 0
        self.most_at_once = 0
        self._answers: dict[str, Answer] = {}

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.times.append(time.monotonic())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.slow)
            answer = self._answer(scope, headers, body)
        finally:
            self.at_once -= 1
        if answer is None:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            raise ConnectionAbortedError  # uvicorn closes the connection of a half-sent answer
        content = json.dumps(answer.document).encode()
        sent = {"content-type": "application/json", "x-request-id": "r-1", **answer.headers}
        pairs = [(name.encode(), value.encode()) for name, value in sent.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": pairs})
        await send({"type": "http.response.body", "body": content})

    def _answer(self, scope: dict[str, Any], headers: dict[str, str], body: bytes) -> Answer | None:
        if self.unusual:
            unusual = self.unusual.popleft()
            return None if isinstance(unusual, Drop) else unusual
        if headers.get("authorization") != f"Bearer {KEY}":
            return Answer(401, {"code": "unauthenticated", "detail": "Send a valid API key."})
        if scope["path"].endswith("/batch"):
            return self._batch(scope, headers, body)
        return Answer(404, {"code": "not_found"})

    def _batch(self, scope: dict[str, Any], headers: dict[str, str], body: bytes) -> Answer | None:
        assert scope["method"] == "POST"
        if len(body) > self.max_bytes:
            return Answer(413, {"code": "body_too_large", "detail": "Too large."})
        assert headers["content-type"] == "application/json"
        self.queries.append((scope["path"], scope["query_string"].decode()))
        if scope["path"] == "/consents/batch":
            return self._consents(scope["query_string"].decode(), json.loads(body))
        if scope["path"] == "/events/batch":
            return self._take(json.loads(body))
        assert scope["path"] == "/users/batch"
        key = headers["idempotency-key"]
        if key not in self._answers:
            self._answers[key] = self._carry_out(json.loads(body))
        if self.lose_answers:
            self.lose_answers -= 1
            return None
        return self._answers[key]

    def _carry_out(self, document: dict[str, Any]) -> Answer:
        assert set(document) == {"users"}
        assert 1 <= len(document["users"]) <= 1000
        self.requests.append(document)
        nul = [i for i, user in enumerate(document["users"]) if "\\u0000" in json.dumps(user)]
        if nul:
            errors = [{"pointer": f"/users/{i}/name", "code": "nul_character", "message": "No."} for i in nul]
            return Answer(422, {"code": "validation_failed", "detail": "1 problem.", "errors": errors})
        results = [self._upsert(index, user) for index, user in enumerate(document["users"])]
        counts = {
            status: sum(result["status"] == status for result in results)
            for status in ("created", "updated", "rejected")
        }
        return Answer(200, {**counts, "results": results})

    def _take(self, document: dict[str, Any]) -> Answer:
        assert 1 <= len(document["events"]) <= 2000
        assert document.get("historical", True) is True
        self.requests.append(document)
        results = [self._event(index, event) for index, event in enumerate(document["events"])]
        if all(result["status"] == "rejected" for result in results):
            return Answer(422, {"code": "validation_failed", "errors": [], "results": results})
        return Answer(202, {"results": results})

    def _event(self, index: int, event: dict[str, Any]) -> dict[str, Any]:
        event_id, user_id = event["event_id"], event["user_id"]
        answer = {"index": index, "event_id": event_id, "status": "accepted", "errors": []}
        code = "user_unknown" if user_id not in self.users else self.refuse.get(event_id, "")
        if not code and "data_collection" not in self.consents.get(user_id, {}):
            code = "consent_required"
        if code:
            error = {"pointer": f"/events/{index}/user_id", "code": code, "message": "This is not right."}
            return {**answer, "status": "rejected", "errors": [error]}
        if event_id in self.events:
            return {**answer, "status": "duplicate"}
        self.events[event_id] = event
        return answer

    def _consents(self, query: str, document: dict[str, Any]) -> Answer:
        assert set(document) == {"consents"}
        assert 1 <= len(document["consents"]) <= 1000
        kept = parse_qs(query).get("keep_recorded", [])
        self.asked.append([f"{item['user_id']} {item['purpose']}" for item in document["consents"]])
        results = [self._consent(index, item, kept) for index, item in enumerate(document["consents"])]
        return Answer(200, {"results": results})

    def _consent(self, index: int, item: dict[str, Any], kept: list[str]) -> dict[str, Any]:
        user_id, purpose = item.pop("user_id"), item.pop("purpose")
        answer = {"index": index, "user_id": user_id, "purpose": purpose, "errors": []}
        place, code = ("user_id", "user_unknown") if user_id not in self.users else ("source", self.refuse_source)
        if code:
            error = {"pointer": f"/consents/{index}/{place}", "code": code, "message": "is not right"}
            return {**answer, "status": "rejected", "errors": [error]}
        said = self.consents.setdefault(user_id, {})
        stays = purpose in said and item["granted"] and purpose in kept
        if stays or said.get(purpose) == item:
            return {**answer, "status": "unchanged"}
        said[purpose] = item
        return {**answer, "status": "changed"}

    def _upsert(self, index: int, user: dict[str, Any]) -> dict[str, Any]:
        user_id = user["user_id"]
        if user_id in self.refuse:
            return rejection(index, "/email", self.refuse[user_id])
        known = self.users.get(user_id)
        if known is None:
            for name in CORE:
                if name not in user:
                    return rejection(index, f"/{name}", "required")
        self.users[user_id] = {**(known or {}), **user}
        return {
            "index": index,
            "user_id": user_id,
            "status": "updated" if known else "created",
            "changed": known != self.users[user_id],
        }


class Server:
    """Listens on a free port of 127.0.0.1, in a thread of its own, and serves one peer after the other."""

    def __init__(self) -> None:
        self.peer: Peer | None = None
        self._server = uvicorn.Server(
            uvicorn.Config(self, port=0, log_level="critical", ws="none", lifespan="off", timeout_keep_alive=30)
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def new_peer(self) -> Peer:
        """A peer without memory, which answers from now on."""
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.peer = Peer(f"http://127.0.0.1:{port}")
        return self.peer

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        assert self.peer is not None
        await self.peer(scope, receive, send)

    def __enter__(self) -> Server:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(10)
