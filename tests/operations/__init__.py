"""What happens to instances from outside: withdrawals, terminations, callbacks."""
