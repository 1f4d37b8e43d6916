"""Tests of sealing, keys and masks."""
