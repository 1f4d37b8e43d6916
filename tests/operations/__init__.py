"""Instances on a running stack: withdrawals, terminations, outages, callbacks."""
