"""Tests of settings, pools and what else knows no domain."""
