"""The embedded stack: Postgres, Temporal, the API and workers under one supervisor."""
