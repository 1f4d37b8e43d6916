"""The comparison of two checkouts, and the lock of the products that the benchmarks compare with."""
