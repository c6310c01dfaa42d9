"""Trellis on a real Temporal cluster: its four roles and a Postgres, each a process. Not part of `make test`."""
