"""The local stack of one command."""
