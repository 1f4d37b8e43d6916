"""Runs an import: reads rows, maps them to items, sends these and reports the results."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from zoneinfo import ZoneInfo

from rich.console import Console

from clients.importer.api_client import ApiClient, RetryPolicy, http_client
from clients.importer.consents import ConsentGranter
from clients.importer.encodings import AN_ENCODING, DEFAULT, is_encoding
from clients.importer.items import Assembler, Item, UnusableRows
from clients.importer.mapping import ImportMapping, load_mapping
from clients.importer.options import ImportOptions, ImportStoppedError, ItemStatus
from clients.importer.progress import Reporter, Summary, print_text, reporter, show
from clients.importer.rejects import Rejects
from clients.importer.sending import Batch, BatchSender, InFlight, ItemResult, batches
from clients.importer.sources import CsvSource, Row, Source, has_column, open_source
from clients.importer.values import A_ZONE, LocalTimes, is_zone

__all__ = ["ImportOptions", "run_import"]

ALL_ACCEPTED, SOME_REJECTED, STOPPED = 0, 1, 2
"""Exit codes."""
_REQUESTS_AT_ONCE = 3


def run_import(
    options: ImportOptions,
    *,
    output: Console | None = None,
    errors: Console | None = None,
    retries: RetryPolicy | None = None,
) -> int:
    """Import a file. Returns 0 if the API accepted all rows, 1 if some were rejected, 2 if the import stopped.

    Progress and summary go to ``output``, and the reason of a stop, in one sentence, to ``errors``. A second run
    is safe: the API leaves existing data unchanged.
    """
    output = output or Console()
    errors = errors or Console(stderr=True)
    try:
        run = ImportRun(options, output, retries or RetryPolicy())
    except ImportStoppedError as stopped:
        print_text(errors, str(stopped))
        return STOPPED
    sentence = None
    try:
        asyncio.run(run.run())
    except ImportStoppedError as stopped:
        sentence = f"{stopped} Rows sent before are stored; run the import again to continue."
    except KeyboardInterrupt:
        sentence = "Interrupted. Rows sent before are stored; run the import again to continue."
    try:
        run.finish()
    except ImportStoppedError as stopped:
        sentence = sentence or str(stopped)
    if sentence is not None:
        print_text(errors, sentence)
        return STOPPED
    return SOME_REJECTED if run.summary.rejected_rows else ALL_ACCEPTED


class ImportRun:
    def __init__(self, options: ImportOptions, output: Console, retries: RetryPolicy) -> None:
        """Check options, mapping and columns. Raises :class:`ImportStoppedError`."""
        self._options = options
        self._output = output
        self._retries = retries
        self._mapping: ImportMapping = load_mapping(options.mapping)
        kind = self._mapping.kind
        self._batch_size = kind.max_batch if options.batch_size is None else options.batch_size
        if not 1 <= self._batch_size <= kind.max_batch:
            raise ImportStoppedError(f"--batch-size must be between 1 and {kind.max_batch} for {kind.name}.")
        self._times = LocalTimes(_zone(self._mapping.timezone if options.timezone is None else options.timezone))
        self._source: Source = open_source(
            options.file,
            self._mapping.delimiter,
            _encoding(self._mapping.encoding if options.encoding is None else options.encoding),
            self._mapping.references(),
        )
        self._check_columns()
        self._unseen = self._mapping.columns() if self._source.columns is None else set[str]()
        self._rejects = Rejects(self._source, options.file)
        self._first: bytes | None = None
        self._accounted = 0
        """Rows with a result."""
        self._began = time.monotonic()
        self.summary = Summary()

    def _check_columns(self) -> None:
        if not isinstance(self._source, CsvSource):
            return
        try:
            self._mapping.check_columns(self._source.columns)
        except ImportStoppedError as stopped:
            hint = self._source.separator_hint(self._mapping.columns())
            raise ImportStoppedError(f"{stopped} {hint}".rstrip()) from None

    async def run(self) -> None:
        """Send all rows. Raises :class:`ImportStoppedError`."""
        with reporter(self._output, self._estimate()) as report:
            sized = batches(self._items(), self._batch_size, lambda rows: self._reject(rows, report))
            if self._options.dry_run:
                for batch in sized:
                    self._first = self._first or batch[0].body
                    self.summary.items += len(batch)
                    self._account_for(sum(len(item.lines) for item in batch), report)
            else:
                options = self._options
                async with http_client(
                    options.url, options.key, options.ca_file, agent="perennial-import"
                ) as client:
                    await self._send(sized, ApiClient(client, self._retries, report.note), report)
        if self._accounted != self.summary.rows:
            raise ImportStoppedError(f"{self.summary.rows - self._accounted} rows have no result.")

    def finish(self) -> None:
        """Write the rejects file and print the summary. Raises :class:`ImportStoppedError`."""
        self.summary.seconds = time.monotonic() - self._began
        self.summary.rejected_rows = len(self._rejects)
        self.summary.open_rows = self.summary.rows - self._accounted
        self.summary.lines = self._source.lines.total()
        self.summary.empty_lines = self._source.lines["empty"]
        self._rejects.write()
        show(self._output, self._mapping.kind, self.summary, self._first)
        for column in sorted(self._unseen):
            self._say(f"No row had '{column}', which the mapping uses.")
        if self._times.taken_as_utc:
            self._say(
                f"{self._times.taken_as_utc:,} times without an offset were taken as UTC. "
                "Name their time zone with --timezone, or with 'timezone' in the mapping."
            )
        if self._rejects:
            self._say(f"The rejected rows are in {self._rejects.path}, each with the reason.")

    async def _send(self, sized: Iterator[Batch], api: ApiClient, report: Reporter) -> None:
        kind = self._mapping.kind
        mapping = self._mapping
        sender = BatchSender(api, kind, historical=mapping.historical, keep_recorded=mapping.keep_recorded)
        consents = ConsentGranter(api, mapping.grants, kind.name, report.people_done)
        flight = InFlight(_REQUESTS_AT_ONCE)
        try:
            for batch in sized:
                identities = (item.identity for item in batch)
                await flight.add(self._deliver(sender, consents, batch, report), identities)
            await flight.drain()
        finally:
            await flight.cancel()
            self.summary.consents = consents.granted

    async def _deliver(
        self, sender: BatchSender, consents: ConsentGranter, batch: Batch, report: Reporter
    ) -> None:
        if self._mapping.kind.consents_first:
            await consents.ensure(item.person for item in batch)
            results = await sender.send(batch)
        else:
            results = await sender.send(batch)
            await consents.ensure(
                result.item.person for result in results if result.status is not ItemStatus.REJECTED
            )
        self._count(results, report)

    def _count(self, results: Sequence[ItemResult], report: Reporter) -> None:
        for result in results:
            if result.status is ItemStatus.REJECTED:
                self._rejects.add(dict.fromkeys(result.item.lines, result.problems))
        self.summary.items += len(results)
        self.summary.statuses += Counter(result.status for result in results)
        self._account_for(sum(len(result.item.lines) for result in results), report)

    def _reject(self, rows: UnusableRows, report: Reporter) -> None:
        self._rejects.add(rows.problems)
        self._account_for(len(rows.problems), report)

    def _account_for(self, rows: int, report: Reporter) -> None:
        self._accounted += rows
        report.rows_done(rows)

    def _items(self) -> Iterator[Item | UnusableRows]:
        return Assembler(self._mapping, self._options.shift_days, self._times).items(self._rows())

    def _rows(self) -> Iterator[Row]:
        for row in self._source.rows():
            self.summary.rows += 1
            if self._unseen:
                self._unseen = {name for name in self._unseen if not has_column(row.values, name)}
            yield row

    def _estimate(self) -> int:
        """The number of line ends, which is about the number of rows."""
        with self._options.file.open("rb") as file:
            ends = [(block.count(b"\n"), block.count(b"\r")) for block in iter(lambda: file.read(1 << 20), b"")]
        lines = max(sum(feeds for feeds, _ in ends), sum(returns for _, returns in ends))
        return max(lines - (self._source.columns is not None), 1)

    def _say(self, text: str) -> None:
        print_text(self._output, text)


def _encoding(name: str | None) -> str:
    if name is not None and not is_encoding(name):
        raise ImportStoppedError(f"--encoding must be {AN_ENCODING}.")
    return DEFAULT if name is None else name


def _zone(name: str | None) -> ZoneInfo | None:
    if name is not None and not is_zone(name):
        raise ImportStoppedError(f"--timezone must be {A_ZONE}.")
    return None if name is None else ZoneInfo(name)
