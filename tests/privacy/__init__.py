"""Tests of encryption, keys and masks."""
