"""Somebody's app, flown: found in a file, checked, and run by a worker with the plugin.

app.py       the workflows and activities of an app
finding.py   an app in a Python file, a module or a package
running.py   the worker that runs an app, for as long as it is wanted
cells.py     workflows that are defined in a notebook's cell
"""
