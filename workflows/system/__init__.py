"""Workflows of the platform's own."""
