"""Worker processes: killed, frozen, dismissed, and none left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from trellis.config import Settings
from trellis.crew import Crew
from trellis.errors import StackError
from trellis.stack import Stack

pytestmark = pytest.mark.slow


@pytest.fixture
def own(settings: Settings, running: Stack) -> Settings:
    """The servers of this run, and queues on which nobody else works."""
    return settings.model_copy(update={"orders_queue": "crew-orders", "shipping_queue": "crew-shipping"})


async def gone(pid: int) -> bool:
    """Whether this process ends within a generous time."""
    for _ in range(600):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        await asyncio.sleep(0.05)
    return False


async def stopped(pid: int) -> None:
    """Wait until all threads of the process stand still."""
    async with asyncio.timeout(30):
        while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
            await asyncio.sleep(0.02)


async def test_a_crew_leaves_no_process_behind_whatever_happened_to_it(own: Settings, tmp_path: Path) -> None:
    """One was killed, one ended by itself and was replaced, one is frozen: after the block all have ended."""
    async with Crew(own, tmp_path / "worker.log", 3) as crew:
        killed, lost, frozen = crew.members
        assert all(member.ready_at is not None for member in crew.members)
        await crew.kill(killed)
        assert killed.process.returncode == -signal.SIGKILL
        lost.process.terminate()
        assert await gone(lost.pid)
        lost.process.poll()
        crew.freeze(frozen)
        await stopped(frozen.pid)
        fresh = await crew.fill()
        assert (len(fresh), len(crew.members), crew.ended) == (2, 3, [lost])
        assert set(crew.working) == set(fresh)
        pids = [member.pid for member in crew.hired]
    assert [pid for pid in pids if not await gone(pid)] == []
    assert frozen.process.returncode is not None


async def test_workers_end_when_the_process_that_started_them_was_killed(own: Settings, tmp_path: Path) -> None:
    """A kernel that is killed runs no clean-up: a worker that runs and one that is frozen both end all the same."""
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from trellis.config import load\n"
        "from trellis.crew import Crew\n"
        "async def main():\n"
        "    crew = Crew(load(), Path(sys.argv[1]), 2)\n"
        "    await crew.fill()\n"
        "    crew.freeze(crew.members[1])\n"
        "    print(*(member.pid for member in crew.members), flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(tmp_path / "worker.log"),
        env=os.environ | own.environment(), stdout=subprocess.PIPE,
    )  # fmt: skip
    assert parent.stdout is not None
    pids = [int(pid) for pid in (await parent.stdout.readline()).split()]
    assert len(pids) == 2
    await stopped(pids[1])
    parent.kill()
    await parent.wait()
    left = [pid for pid in pids if not await gone(pid)]
    for pid in left:
        psutil.Process(pid).kill()
    assert left == []


async def test_a_worker_that_cannot_start_says_why(
    own: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last line of its log is the message, and no process stays."""
    monkeypatch.setenv("TRELLIS_POLCY", "swift")
    with pytest.raises(StackError, match="TRELLIS_POLCY"):
        async with Crew(own, tmp_path / "worker.log", 2):
            pass
    assert "trellis worker" not in [" ".join(child.cmdline()[2:5]) for child in psutil.Process().children()]
