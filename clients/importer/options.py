"""What an import is asked to do, and how it says that it can't."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class ImportStoppedError(Exception):
    """The import can't start or go on; the text says why in one sentence, with no value of a row in it."""


@dataclass(frozen=True)
class ImportOptions:
    """The command line of `perennial import`."""

    file: Path
    """CSV (`.csv`), TSV (`.tsv`) or NDJSON (`.ndjson`, `.jsonl`), in UTF-8."""
    mapping: Path
    """A TOML file: see docs/importing.md."""
    url: str = ""
    """Where the API is, e.g. `http://127.0.0.1:8080`. Not needed for a dry run."""
    key: str = ""
    """An API key of role admin or integrator. Not needed for a dry run."""
    shift_days: int = 0
    """How many days the times marked `shift = true` are moved forward."""
    batch_size: int | None = None
    """Items a request, at most what the kind's route takes (the default)."""
    dry_run: bool = False
    """Read and map everything, send nothing."""
    ca_file: Path | None = None
    """Certificates to trust beside the system's, for an `https` API with a certificate of its own."""
