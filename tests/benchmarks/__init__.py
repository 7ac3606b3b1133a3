"""Figures for docs/benchmarks.md: `make bench`. Each is a ratio of two things measured in turn in one run."""
