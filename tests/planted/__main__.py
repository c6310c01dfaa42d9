"""Plants the mistakes and says which of them the audit found. Exit code 0: all of them, and nothing without one."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from tests.planted.bugs import BUGS, SHORT, Bug, bug_of
from tests.planted.runner import Found, run
from trellis import runtime, stack
from trellis.config import Settings

AT_ONCE = 2


async def plant(bugs: Sequence[Bug]) -> bool:
    """Run each mistake, and its scenario without it; print a line for each. True: all were found, and only they."""
    with runtime.workspace(Settings.model_validate({})) as settings:
        servers = await stack.up(settings)
        places = asyncio.Semaphore(AT_ONCE)

        async def one(bug: Bug) -> tuple[bool, bool]:
            async with places:
                began = time.monotonic()
                planted = await run(servers, bug, [bug.scenario], bug.seed)
                honest = await run(servers, None, [bug.scenario], bug.seed)
            found, clean = planted.shows(bug), honest.report.clean
            how = "found" if found else "NOT FOUND"
            print(f"{bug.name:26} seed {bug.seed}  {how}: {_said(planted)}", flush=True)
            without = "clean" if clean else f"NOT CLEAN: {_said(honest)}"
            print(f"{'  without it':26} seed {bug.seed}  {without} ({time.monotonic() - began:.0f} s)", flush=True)
            return found, clean

        results = await asyncio.gather(*(one(bug) for bug in bugs))
    found, clean = sum(one[0] for one in results), sum(one[1] for one in results)
    print(f"{found} of {len(bugs)} mistakes found; {clean} of {len(bugs)} runs without a mistake are clean.")
    return found == clean == len(bugs)


def _said(found: Found) -> str:
    """The findings, each sentence once, with the number of orders."""
    counts: dict[str, set[str]] = {}
    for violation in found.report.violations:
        counts.setdefault(f"{violation.invariant} {violation.sentence}", set()).add(violation.order_id)
    return "; ".join(f"{sentence} ({len(orders)} orders)" for sentence, orders in sorted(counts.items())) or "nothing"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.planted", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which mistakes")
    parser.add_argument("--all", action="store_true", help="all ten")
    parser.add_argument("--seed", type=int, help="another seed than the recorded ones")
    given = parser.parse_args()
    unknown = set(given.names) - {bug.name for bug in BUGS}
    if unknown:
        parser.error(f"There is no mistake {min(unknown)}. Known are {', '.join(bug.name for bug in BUGS)}.")
    bugs = list(BUGS) if given.all else [bug_of(name) for name in given.names or SHORT]
    if given.seed is not None:
        bugs = [replace(bug, seed=given.seed) for bug in bugs]
    return 0 if asyncio.run(plant(bugs)) else 1


if __name__ == "__main__":
    sys.exit(main())
