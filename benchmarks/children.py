"""Child processes that a stack is compared with."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_READY_SECONDS = 60.0
NICENESS = 5
"""That of the embedded stack's worker."""


@asynccontextmanager
async def child(module: str, *arguments: str) -> AsyncIterator[int]:
    """Run a module until the block ends; yields its process id once it has announced that it serves.

    Raises RuntimeError where it ends before that.
    """
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
    """Report to the parent that this process serves."""
    sys.stdout.write("serving\n")
    sys.stdout.flush()
