"""`perennial import`: sends CSV and NDJSON files to the HTTP API."""
