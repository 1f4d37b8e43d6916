"""SQLModel tables. They declare the schema and the columns with personal data."""
