"""Tests of workflows, on a real Temporal and a real Postgres."""
