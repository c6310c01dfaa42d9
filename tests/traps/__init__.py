"""Traps: data sets in which a naive adviser gives confident wrong advice, and honest ones in which it must not refuse.

The data come from a small simulator of workflows (`world`), which knows nothing of the package's mathematics. Advice is
learned from what one run of a world shows, and is then judged in the same world (`judge`).
"""
