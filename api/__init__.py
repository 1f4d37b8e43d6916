"""The HTTP API: one router for each resource, and the code that all routes share."""
