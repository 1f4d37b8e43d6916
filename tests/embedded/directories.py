"""Directories for the homes of real servers."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def temporary_directory() -> Iterator[Path]:
    # Not under `tmp_path`: pytest closes its base directory to other users repeatedly, and Postgres's system user
    # passes through the directories above its data.
    path = Path(tempfile.mkdtemp(prefix="perennial-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)
