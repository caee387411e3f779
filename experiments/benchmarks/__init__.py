"""Benchmarks: fedsim beside a bare loop, a shared-memory pool and other simulators, at the same training, in turn."""
