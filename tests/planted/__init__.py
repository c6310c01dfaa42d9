"""Ten mistakes, planted one at a time into a copy of the package: the audit must find each of them.

    python -m tests.planted            three of them, with a run of the unchanged package
    python -m tests.planted --all      all ten, each beside the same run of the unchanged package

A check that cannot fail proves nothing. Each mistake is a small change of the source (bugs.py). Real workers run orders
with it, under the faults that the mistake needs (scenarios.py). Then the audit of the unchanged package reads the
ledger, the provider's book and Temporal's histories (runner.py).
"""
