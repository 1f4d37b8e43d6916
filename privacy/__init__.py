"""Encrypting, keys, blind index, masking."""
