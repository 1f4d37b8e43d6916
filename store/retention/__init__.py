"""Retention periods, runs and purges."""
