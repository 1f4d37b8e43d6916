"""Compares Postgres, Temporal and the clocks with Perennial's needs, before a process starts and while it runs."""
