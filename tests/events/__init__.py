"""Tests of events: ingest, log, projector, outbox."""
