"""The same three steps on DBOS: what `three steps` is compared with.

Run as ``python -m benchmarks.dbos_steps PORT DATABASE_URL``. One process, as its documentation shows it with
FastAPI: the request starts the workflow, which runs in the event loop that answers, and waits for its handle;
nothing is polled. Each step changes the same row with the same statement, over a pool of asyncpg as ours does.
There is no authentication, no encrypting, no audit, and no server for workflows besides.
"""

from __future__ import annotations

import sys
from typing import Any

import asyncpg
import uvicorn
from dbos import DBOS, DBOSConfig
from fastapi import FastAPI

from benchmarks.bare_steps import MOVE, STAGES
from benchmarks.children import announce
from runtime.embedded.ports import LOOPBACK
from runtime.process import collect_rarely

_KEPT_SECONDS = 600
"""The connection is idle while others have their turn."""
_POOL: list[asyncpg.Pool[asyncpg.Record]] = []


@DBOS.step()
async def move(user_id: str, stage: str) -> str:
    """Change a row."""
    return await _POOL[0].execute(MOVE, user_id, stage)


@DBOS.workflow()
async def three_steps(user_id: str) -> str:
    """One step after the other."""
    for stage in STAGES:
        await move(user_id, stage)
    return "moved"


app = FastAPI()


@app.post("/execute")
async def execute(request: dict[str, Any]) -> dict[str, Any]:
    """Start it and wait until it has finished."""
    handle = await DBOS.start_workflow_async(three_steps, request["user_id"])
    return {"workflow_id": handle.workflow_id, "result": await handle.get_result()}


async def serve(port: int, database_url: str) -> None:
    """Serve until killed."""
    _POOL.append(await asyncpg.create_pool(database_url, min_size=0, max_size=12))
    config = uvicorn.Config(
        app, host=LOOPBACK, port=port, log_level="warning", access_log=False, timeout_keep_alive=_KEPT_SECONDS
    )
    server = _Announcing(config)
    collect_rarely()
    await server.serve()


class _Announcing(uvicorn.Server):
    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        announce()


def main(port: str, database_url: str) -> None:
    """Launch DBOS in a schema of its own, which is why the database's owner connects."""
    import uvloop

    config: DBOSConfig = {
        "name": "three-steps",
        "system_database_url": database_url,
        "log_level": "ERROR",
        "application_version": "1",
    }
    DBOS(config=config)
    DBOS.launch()
    uvloop.run(serve(int(port), database_url))


if __name__ == "__main__":
    main(*sys.argv[1:])
