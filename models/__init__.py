"""The shapes: tables, wire schemas, Temporal messages, the error tree."""
