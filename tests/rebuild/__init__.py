"""`perennial rebuild`."""
