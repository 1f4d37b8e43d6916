"""Settings, database, Temporal client and codec, telemetry; knows no domain."""
