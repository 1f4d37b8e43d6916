"""`perennial import`: bringing CSV and NDJSON files in through the HTTP API."""
