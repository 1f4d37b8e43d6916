"""Retention periods, runs, previews and purges."""
