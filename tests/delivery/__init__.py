"""Tests of delivery: bytes on the wire."""
