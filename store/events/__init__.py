"""The event log: ingest, cursors, partitions, projection."""
