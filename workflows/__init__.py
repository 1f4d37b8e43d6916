"""Durable programs: deterministic, without I/O."""
