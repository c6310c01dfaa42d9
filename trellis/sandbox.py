"""How workflow code is run: in the SDK's sandbox, as this process loaded it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import InspectLoader, Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType

from temporalio import workflow
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

PASSED_THROUGH = (
    "temporalio",
    "trellis.errors",
    "trellis.incoming",
    "trellis.messages",
    "trellis.model",
    "trellis.parsing",
    "trellis.policies",
    "trellis.retry",
    "trellis.rules",
)
"""What workflows may share with the rest of the process: pure modules that take long to import.

The sandbox imports everything else again for each workflow, and restricts it. So no module under `trellis.workflows`
may stand here, nor a parent of one: a call such as `time.time()` in a workflow would then no longer be refused.
"""

RUNNER = SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules(*PASSED_THROUGH))
"""The one way in which workflow code is run: by workers, replays, benchmarks and the time machine alike."""


class _AsLoaded(MetaPathFinder, Loader):
    """Gives the sandbox the code of a module as it was when `keep` was called, even if its file has changed since.

    Without it the sandbox would read the file again for every workflow: an edit would reach new orders while the
    activities are still the old ones, and a file that cannot be imported would stop every order.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[CodeType, ModuleSpec]] = {}

    def keep(self, name: str) -> None:
        spec = sys.modules[name].__spec__
        assert spec is not None
        assert isinstance(spec.loader, InspectLoader)
        code = spec.loader.get_code(name)
        assert code is not None
        self._kept[name] = code, spec

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        if fullname not in self._kept or not workflow.unsafe.in_sandbox():
            return None
        original = self._kept[fullname][1]
        spec = ModuleSpec(fullname, self, origin=original.origin)
        spec.submodule_search_locations = original.submodule_search_locations
        spec.has_location = original.has_location
        return spec

    def exec_module(self, module: ModuleType) -> None:
        exec(self._kept[module.__name__][0], module.__dict__)


_as_loaded = _AsLoaded()
# It must be the first finder, or the one that reads files would answer before it.
sys.meta_path.insert(0, _as_loaded)


def keep(*names: str) -> None:
    """From now on workflows are run with these modules as they are loaded now."""
    for name in names:
        _as_loaded.keep(name)


__all__ = ["PASSED_THROUGH", "RUNNER", "keep"]
