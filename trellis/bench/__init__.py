"""Benchmarks: commands that print figures. Each brings a stack of its own up, and ends it."""
