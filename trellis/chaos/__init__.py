"""Chaos: break servers, workers, wires and providers on purpose, and see how orders recover.

house.py      the servers of one run, and handles on everything that a nemesis may touch
nemesis.py    what a nemesis is: break, heal, did it land; registry.py lists them all
nemeses/      the nemeses themselves
arrivals.py   orders that arrive at a rate, whatever happens to the ones before them
recovery.py   backlog over time, time to drain, measured and predicted
verdict.py    what a fault proved
scenario.py   what a run is asked for and what it showed; run.py runs it; page.py is the page to keep
"""
