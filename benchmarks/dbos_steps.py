"""The same three steps on DBOS, with which `three steps` is compared.

Run as ``python -m benchmarks.dbos_steps PORT DATABASE_URL``. It is one process, as DBOS documents it for FastAPI:
the request starts the workflow in its own event loop and awaits the handle, without polling. Each step runs the
same statement on an asyncpg pool. There is no authentication, no encryption, no audit and no workflow server.
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
from runtime.process import collect_garbage_rarely

_KEPT_SECONDS = 600
"""The connection is idle while the others take their turns."""
_POOL: list[asyncpg.Pool[asyncpg.Record]] = []


@DBOS.step()
async def move(user_id: str, stage: str) -> str:
    """Run the statement of `set_stage`."""
    return await _POOL[0].execute(MOVE, user_id, stage)


@DBOS.workflow()
async def three_steps(user_id: str) -> str:
    """Move a user to three stages."""
    for stage in STAGES:
        await move(user_id, stage)
    return "moved"


app = FastAPI()


@app.post("/execute")
async def execute(request: dict[str, Any]) -> dict[str, Any]:
    """Start the workflow and await its result."""
    handle = await DBOS.start_workflow_async(three_steps, request["user_id"])
    return {"workflow_id": handle.workflow_id, "result": await handle.get_result()}


async def serve(port: int, database_url: str) -> None:
    """Serve until killed."""
    _POOL.append(await asyncpg.create_pool(database_url, min_size=0, max_size=12))
    config = uvicorn.Config(
        app, host=LOOPBACK, port=port, log_level="warning", access_log=False, timeout_keep_alive=_KEPT_SECONDS
    )
    server = _Announcing(config)
    collect_garbage_rarely()
    await server.serve()


class _Announcing(uvicorn.Server):
    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        announce()


def main(port: str, database_url: str) -> None:
    """Launch DBOS, which creates its schema and so connects as the database's owner."""
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
