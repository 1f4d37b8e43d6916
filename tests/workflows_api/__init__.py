"""`/workflows` over HTTP, with a real Temporal behind it."""
