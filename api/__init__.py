"""The HTTP edge: routers, the composition root of the edge, and how errors look."""
