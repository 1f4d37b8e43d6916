"""Every route with every role."""
