"""Tests of the statements, on real Postgres."""
