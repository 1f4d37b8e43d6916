"""`/workflows` and `/dead-letters` over HTTP, with a real Temporal."""
