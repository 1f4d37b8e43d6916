"""The activities. Their classes get their dependencies in the constructor."""
