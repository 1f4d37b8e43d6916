"""Outgoing mail and HTTP: transports, templates, signatures."""
