"""The audit log: what is written, and that it can be trusted."""
