"""Whole stacks whose parts are killed, or loaded."""
