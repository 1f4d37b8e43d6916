"""What workflows do to the world; dependencies come by constructor."""
