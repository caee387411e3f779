"""Benchmarks: ratios against a bare PyTorch loop, measured in the same run."""
