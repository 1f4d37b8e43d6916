"""`perennial import` of 2,357 customers, against COPY of the rows that it stores."""

from __future__ import annotations

import asyncio
import csv
import os
import random
import shutil
import statistics
import sys
import time
from datetime import date, timedelta
from pathlib import Path

from benchmarks.measure import Figure
from benchmarks.stack import Stack

_CUSTOMERS = 2357
_ROWS = 6919
_TARGET_SECONDS = 10.0
_MAPPING = Path(__file__).parents[2] / "examples" / "cdnow-profiles.toml"


async def run(stack: Stack, *, quick: bool) -> list[Figure]:
    """Import new customers each round by the command itself; then the last file again, which changes nothing."""
    folder = stack.home / "import"
    folder.mkdir()
    file = _file(folder)
    taken, copied, rounds = [], [], 1 if quick else 3
    for number in range(rounds):
        mapping = folder / f"mapping-{number}.toml"
        mapping.write_text(_MAPPING.read_text().replace('"cdnow-{', f'"import{number}-{{'))
        taken.append(await _import(stack, file, mapping))
        copied.append(await _copy(stack, f"import{number}-"))
    again = await _import(stack, file, folder / f"mapping-{rounds - 1}.toml")
    seconds = statistics.median(taken)
    return [
        Figure(
            name="import",
            what=f"`perennial import` of {_CUSTOMERS:,} new profiles from {_ROWS:,} rows, the whole command",
            value=round(seconds, 2),
            unit="s",
            ceiling=round(statistics.median(copied), 3),
            ceiling_what="COPY of the same encrypted rows into the same tables",
            target=f"< {_TARGET_SECONDS:.0f} s",
            reached=seconds < _TARGET_SECONDS,
            details={
                "seconds": [round(value, 2) for value in taken],
                "copy_seconds": [round(value, 3) for value in copied],
                "second_run_seconds": round(again, 2),
                "data": "CDNOW sample" if _sample() else "generated in the shape of the CDNOW sample",
            },
        )
    ]


def _sample() -> Path | None:
    folder = os.environ.get("PERENNIAL_SAMPLE_DATA")
    file = Path(folder) / "cdnow_sample.csv" if folder else None
    return file if file is not None and file.is_file() else None


def _file(folder: Path) -> Path:
    """The sample where there is one, else a generated file of its shape."""
    file = folder / "purchases.csv"
    sample = _sample()
    if sample is not None:
        return Path(shutil.copy(sample, file))
    rng = random.Random(7)
    customers = [*range(_CUSTOMERS), *(rng.randrange(_CUSTOMERS) for _ in range(_ROWS - _CUSTOMERS))]
    with file.open("w", newline="") as output:
        rows = csv.writer(output)
        rows.writerow(["customer_id", "date", "quantity", "amount"])
        for customer in sorted(customers):
            day = date(1997, 1, 1) + timedelta(days=rng.randrange(545))
            rows.writerow([f"{customer:05}", day, rng.randint(1, 9), f"{rng.uniform(5, 99):.2f}"])
    return file


async def _import(stack: Stack, file: Path, mapping: Path) -> float:
    command = ["-m", "cli", "import", str(file), "--mapping", str(mapping), "--shift-days", "10200"]
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        "--url",
        stack.url,
        "--key",
        stack.key,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the import ended with {process.returncode}:\n{output.decode()}")
    return time.perf_counter() - began


async def _copy(stack: Stack, prefix: str) -> float:
    """Read the encrypted rows, and copy them into the same tables under other ids; returns the seconds."""
    bare = await stack.bare_connection()
    try:
        tables = {"users": "user_id", "data_keys": "subject"}
        loads = {}
        for table, key in tables.items():
            records = await bare.fetch(f"SELECT * FROM {table} WHERE starts_with({key}, $1)", prefix)
            loads[table] = [
                tuple(f"copy-{value}" if name == key else value for name, value in record.items())
                for record in records
            ]
            if len(records) != _CUSTOMERS:
                raise RuntimeError(f"{table} has {len(records)} imported rows")
        began = time.perf_counter()
        async with bare.transaction():
            for table, rows in loads.items():
                await bare.copy_records_to_table(table, records=rows)
        return time.perf_counter() - began
    finally:
        await bare.close()
