"""Programs that use the HTTP API alone."""
