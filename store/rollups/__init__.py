"""Rollups for analytics: deltas that the projector appends, and the tables that the compactor folds them into."""
