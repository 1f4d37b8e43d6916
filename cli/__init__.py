"""The `perennial` command, also `python -m cli`."""
