"""Workflow instances: rows, transitions, attempts, waits, dead letters."""
