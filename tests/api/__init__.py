"""Tests of the HTTP edge, through ASGI and over real sockets."""
