"""Failed instances, and their replays."""
