"""Tests of the HTTP API, through ASGI and over real sockets."""
