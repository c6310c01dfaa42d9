"""All nemeses by their names."""

from __future__ import annotations

from collections.abc import Sequence

from trellis.chaos.nemeses import deploys, disk, doors, provider, requests, servers, together, wires, workers
from trellis.chaos.nemesis import Nemesis
from trellis.errors import BadInput

NEMESES: dict[str, type[Nemesis]] = {
    one.name: one
    for kinds in (workers, servers, wires, provider, doors, requests, disk, deploys, together)
    for one in kinds.ALL
}
"""In the order in which `all` runs them."""


def find(names: str) -> Sequence[type[Nemesis]]:
    """The nemeses of a name, of several names with commas, or `all`. Raises BadInput for an unknown one."""
    if names.strip() == "all":
        return list(NEMESES.values())
    found = []
    for name in filter(None, (name.strip() for name in names.split(","))):
        if name not in NEMESES:
            raise BadInput(f"There is no scenario {name[:40]!r}. Known are all, {', '.join(NEMESES)}.")
        found.append(NEMESES[name])
    if not found:
        raise BadInput(f"Name a scenario. Known are all, {', '.join(NEMESES)}.")
    return found
