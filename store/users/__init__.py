"""Profiles, their data keys, and account closures."""
