"""Tables, API schemas, Temporal payloads, business rules and errors. This package imports none of the others."""
