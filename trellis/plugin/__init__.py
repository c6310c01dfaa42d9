"""Other people's workflows in Trellis: a plugin of Temporal's SDK that notes every attempt, and injects faults."""

from trellis.plugin.plugin import TrellisPlugin

__all__ = ["TrellisPlugin"]
