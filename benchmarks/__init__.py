"""Benchmarks: every figure beside a plain baseline of the same run. `python -m benchmarks` runs all of them."""
