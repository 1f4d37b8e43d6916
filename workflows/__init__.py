"""Temporal workflows: deterministic code without I/O."""
