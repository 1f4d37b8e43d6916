"""The audit log, its checkpoints and their verification."""
