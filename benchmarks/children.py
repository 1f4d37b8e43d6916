"""Processes beside the stack that something is compared with."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_READY_SECONDS = 60.0
NICENESS = 5
"""As the embedded stack gives its worker."""


@asynccontextmanager
async def child(module: str, *arguments: str) -> AsyncIterator[int]:
    """Run a module that writes a line once it serves; gives its process id and kills it on leaving."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        if not await asyncio.wait_for(process.stdout.readline(), _READY_SECONDS):
            raise RuntimeError(f"{module} did not start")
        yield process.pid
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def announce() -> None:
    """Say, in such a process, that it serves."""
    sys.stdout.write("serving\n")
    sys.stdout.flush()
