"""What fails for good, and how it is carried on."""
