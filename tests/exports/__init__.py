"""Everything that is held on a person, as one document."""
