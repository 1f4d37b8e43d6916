"""SQLModel tables: the schema, and which columns hold personal data."""
