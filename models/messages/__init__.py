"""What travels through Temporal."""
