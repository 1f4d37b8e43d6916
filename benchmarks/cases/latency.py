"""Latency of a request that runs three short steps, one after the other on an idle stack; and the same on DBOS.

Perennial responds to ``POST execute`` with ``Prefer: wait=10`` once the instance has finished. The request is
authenticated and audited, the context is encrypted, and API, Temporal, worker and Postgres take part. On DBOS a
FastAPI route starts a workflow and awaits its handle in one process, with none of these
(:mod:`benchmarks.dbos_steps`). Neither polls. The same client calls both, and both change the same rows.
"""

from __future__ import annotations

import uuid
from itertools import cycle

from temporalio.client import Client

from benchmarks import bare_steps
from benchmarks.cases.completions import WORKFLOW
from benchmarks.children import child
from benchmarks.http import connections
from benchmarks.measure import WARM_UP, Figure, in_turns, spread
from benchmarks.processor import processor_seconds, used
from benchmarks.stack import Stack
from runtime.embedded.ports import LOOPBACK, free_port

_TARGET_MS = 100.0


async def run(stack: Stack, *, quick: bool) -> list[Figure]:
    """Perennial, DBOS, and a plain Temporal workflow by the client alone, in turns."""
    count = 50 if quick else 400
    port = free_port()
    async with (
        child("benchmarks.dbos_steps", str(port), stack.owner_url),
        child("benchmarks.bare_steps", stack.temporal_address, stack.database_url),
        connections(stack.url, stack.key) as [ours],
        connections(f"http://{LOOPBACK}:{port}", "none") as [theirs],
    ):
        client = await Client.connect(stack.temporal_address)
        users = cycle(await stack.add_users("latency", 50))

        async def perennial() -> None:
            document = {"user_id": next(users), "parameters": {}}
            response = await ours.request("POST", f"/workflows/{WORKFLOW}/execute", document, prefer="wait=10")
            if response.status != 200 or response.json()["status"] != "completed":
                raise RuntimeError(f"execute answered {response.status}: {response.body[:300]!r}")

        async def dbos() -> None:
            response = await theirs.request("POST", "/execute", {"user_id": next(users)})
            if response.status != 200 or response.json()["result"] != "moved":
                raise RuntimeError(f"DBOS answered {response.status}: {response.body[:300]!r}")

        async def bare() -> None:
            await client.execute_workflow(
                "bare_steps",
                args=[next(users), False],
                id=f"bare-steps-{uuid.uuid4().hex}",
                task_queue=bare_steps.QUEUE,
            )

        before = processor_seconds(stack.pids)
        taken = await in_turns([perennial, dbos, bare], count)
        spent = used(before, processor_seconds(stack.pids), count + WARM_UP)
    mine, other, least = (spread(each) for each in taken)
    return _figures(mine, other, least, spent)


def _figures(
    ours: dict[str, float], dbos: dict[str, float], bare: dict[str, float], spent: dict[str, float]
) -> list[Figure]:
    what = "POST execute with Prefer: wait until finished, three short steps, idle, p50"
    details = {"perennial": ours, "dbos": dbos, "bare": bare, "processor_ms_each_of_all_three": spent}
    reached = ours["p50_ms"] < _TARGET_MS
    target = f"p50 < {_TARGET_MS:.0f} ms"
    return [
        Figure(
            "three steps",
            what,
            ours["p50_ms"],
            "ms",
            bare["p50_ms"],
            "a plain Temporal workflow of the same steps, started and awaited by the client alone, p50",
            target,
            reached,
            details,
        ),
        Figure(
            "three steps, DBOS",
            what,
            ours["p50_ms"],
            "ms",
            dbos["p50_ms"],
            "DBOS: POST to a FastAPI route that runs the same steps on the same Postgres, p50",
            details=details,
        ),
    ]
