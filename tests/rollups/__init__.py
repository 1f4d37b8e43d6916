"""Tests of the rollups: deltas, their compaction, and what stays right under corrections."""
