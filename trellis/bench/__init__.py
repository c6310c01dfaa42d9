"""Benchmarks: commands that print measurements. Each starts a stack of its own, and ends it."""
