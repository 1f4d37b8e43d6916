"""Tests of encrypting, keys and masks."""
