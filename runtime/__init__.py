"""Settings, database, Temporal client and codec, telemetry. No business rules."""
