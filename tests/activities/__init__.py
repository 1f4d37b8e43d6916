"""Tests of activities and of what happens when their process dies."""
