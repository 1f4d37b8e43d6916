"""The benchmarks, each beside its ceiling in the same run: `make bench` (docs/performance.md)."""
