"""Replayed code: no I/O, no clock but the workflow's, and as few imports as possible."""
