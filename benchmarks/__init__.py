"""The benchmarks, each with its ceiling in the same run: `make bench` (docs/performance.md)."""
