"""Encryption of personal data, keys, masks, and the checkpoints of the audit log."""
