"""Consents, their locks and withdrawals."""
