"""Other people's workflows in Trellis: a plugin of Temporal's SDK that notes every attempt, and injects faults.

This file imports nothing, so that `trellis.plugin.current` and others stay light.
"""
