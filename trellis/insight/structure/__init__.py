"""The chain of a workflow, learned from histories or from the ledger: what follows what, and what is left over.

Runs are grouped by the order in which their items began and ended. Of each group one run is read: items that a
workflow task issued together run side by side, and an item that was issued after another one's end follows it. Loops
are parts that follow each other again. What a chain does not explain is measured in each run, as one remainder.
"""

from trellis.insight.structure.course import Structure
from trellis.insight.structure.source import structure_of

__all__ = ["Structure", "structure_of"]
