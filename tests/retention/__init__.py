"""Tests of the retention: what goes, when, and that it is told."""
