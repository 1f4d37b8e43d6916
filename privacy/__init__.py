"""Sealing, keys, blind index, masking."""
