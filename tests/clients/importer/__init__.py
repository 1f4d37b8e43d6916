"""Tests of `perennial import`."""
