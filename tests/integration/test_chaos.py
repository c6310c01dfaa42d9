"""Chaos kills its own worker on its own servers, and says so when it did not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.integration.test_cli import trellis
from trellis.chaos import chaos
from trellis.config import Settings, load
from trellis.errors import StackError
from trellis.policies import preset

pytestmark = pytest.mark.slow

ELSEWHERE = {"DATABASE_URL": "postgresql://x@127.0.0.1:1/x", "TEMPORAL_ADDRESS": "127.0.0.1:1"}


async def test_chaos_leaves_the_servers_that_settings_name_in_peace(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers named by the environment and by `.env` are not used, neither by the desk nor by the killed worker."""
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in ELSEWHERE.items()), "utf-8")
    monkeypatch.chdir(tmp_path)
    for name, value in ELSEWHERE.items():
        monkeypatch.setenv(name, value)
    named = load({"TRELLIS_HOME": str(settings.home), **ELSEWHERE}, None)
    driven, kills, report = await chaos(named, 8, 2, preset("swift"), 4, lambda: None)
    assert kills > 0
    assert sum(driven.states.values()) == report.orders == 8
    assert report.clean, report.violations


async def test_chaos_without_a_kill_is_void(settings: Settings) -> None:
    """Orders that all ended before the first kill prove nothing: exit code 1 and a sentence."""
    done = await trellis(settings, "chaos", "--orders", "1", "--kill-every", "1000", "--json")
    assert done.returncode == 1
    assert "shorter --kill-every" in done.stderr
    result = json.loads(done.stdout)
    assert (result["kills"], result["audit"]["verdict"]) == (0, "VOID")


async def test_chaos_ends_when_its_worker_ends_by_itself(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that cannot start ends chaos with the last line of its log, even if the first kill is far away."""
    monkeypatch.setenv("TRELLIS_POLCY", "swift")
    with pytest.raises(StackError, match="TRELLIS_POLCY"):
        await chaos(settings, 2, 2, preset("swift"), 1000, lambda: None)


def test_a_child_process_is_given_these_very_settings(tmp_path: Path) -> None:
    """Read back, the variables give the same settings, whatever a `.env` says."""
    given = load({"TRELLIS_HOME": str(tmp_path), "ORDERS_TQ": "mine", "TRELLIS_FAULTS": "calm"} | ELSEWHERE, None)
    env_file = tmp_path / ".env"
    env_file.write_text("SHIPPING_TQ=theirs\nTEMPORAL_NAMESPACE=theirs\n", "utf-8")
    assert load(given.environment(), env_file) == given
    own = given.with_own_servers(tmp_path / "own")
    assert load({**os.environ, **ELSEWHERE, **own.environment()}, env_file) == own
    assert (own.database_url, own.temporal_address, own.orders_queue) == (None, None, "mine")
