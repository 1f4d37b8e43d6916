"""Tests of settings, connection pools and telemetry."""
