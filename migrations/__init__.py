"""The schema's revisions, and the rights of the runtime role."""
