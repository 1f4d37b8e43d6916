"""Payloads, ids and search attributes of Temporal workflows."""
