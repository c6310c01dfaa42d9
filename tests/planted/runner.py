"""Copies the package, plants one mistake in the copy, runs orders with it, and audits them with the real package."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
from google.protobuf.duration_pb2 import Duration
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest

from tests.planted.bugs import Bug
from trellis import stack
from trellis.audit import Report, audit
from trellis.config import Settings
from trellis.db.pool import open_pool
from trellis.edited import package_copy
from trellis.errors import StackError

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 100.0
"""How long a scenario may take on a busy machine [s]. It takes 5 to 20 s on a quiet one."""


class Disarmed(Exception):
    """The code that a mistake changes is not there exactly once."""


def copy_of_the_package(folder: Path, bug: Bug | None = None) -> None:
    """The package and its SQL in `folder`, with the mistake in it. Raises Disarmed."""
    try:
        package_copy(folder, bug.edits if bug else ())
    except StackError as why:
        raise Disarmed(f"{bug.name if bug else ''}: {why} Plant it anew in tests/planted/bugs.py.") from None


@dataclass(frozen=True)
class Found:
    """What the audit said of one run. `sentences`: of each finding, with its invariant."""

    report: Report
    sentences: tuple[tuple[int | str, str], ...]

    def shows(self, bug: Bug) -> bool:
        """Whether this mistake was found, by its own sentence, and nothing that it does not do."""
        named = any(re.match(bug.shows, sentence) for _, sentence in self.sentences)
        return named and {number for number, _ in self.sentences} <= bug.invariants


async def run(servers: stack.Stack, bug: Bug | None, scenarios: Sequence[str], seed: int) -> Found:
    """Run the scenarios one after the other with one copy of the package, in a database and a namespace of its own.

    The same seed gives the same order ids, because the faults are drawn from them. So runs cannot share a namespace.

    Raises RuntimeError with the end of the log if the run itself fails.
    """
    tag = uuid.uuid4().hex[:8]
    folder = Path(tempfile.mkdtemp(prefix="planted-"))
    try:
        copy_of_the_package(folder, bug)
        target = await _namespace(servers, f"planted-{tag}")
        async with _database(servers, f"planted_{tag}") as url:
            settings = Settings.model_validate(
                {
                    "TRELLIS_HOME": folder / "home",
                    "TEMPORAL_ADDRESS": servers.temporal.address,
                    "TEMPORAL_NAMESPACE": target.namespace,
                    "DATABASE_URL": url,
                    "LOG_LEVEL": "ERROR",
                }
            )
            paths = os.pathsep.join([str(folder), str(ROOT)])
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.planted.scenarios", str(folder), str(seed), *scenarios,
                cwd=folder, env=os.environ | settings.environment() | {"PYTHONPATH": paths},
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            assert process.stdout is not None
            reading = asyncio.create_task(process.stdout.read())
            try:
                async with asyncio.timeout(PATIENCE * len(scenarios)):
                    await process.wait()
            except TimeoutError:
                pass  # what it printed says where it stood
            finally:
                with suppress(ProcessLookupError):
                    # With the worker that it may have started. A frozen one ends, too.
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
            output = (await reading).decode("utf-8", "replace")
            if process.returncode:
                raise RuntimeError(f"{bug.name if bug else 'no mistake'}, {', '.join(scenarios)}: {output[-20000:]}")
            return await _audited(target, url)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _audited(target: stack.TemporalTarget, url: str) -> Found:
    pool = await open_pool(url, size=4)
    try:
        report = await audit(await stack.connect(target), pool)
    finally:
        await pool.close()
    if report.void:
        raise RuntimeError("The run left nothing to audit.")
    return Found(report, tuple((found.invariant, found.sentence) for found in report.violations))


async def _namespace(servers: stack.Stack, name: str) -> stack.TemporalTarget:
    client = await stack.connect(servers.temporal)
    await client.workflow_service.register_namespace(
        RegisterNamespaceRequest(namespace=name, workflow_execution_retention_period=Duration(seconds=86_400))
    )
    target = replace(servers.temporal, namespace=name)
    await stack.connect(target, wait=30)
    return target


@asynccontextmanager
async def _database(servers: stack.Stack, name: str) -> AsyncIterator[str]:
    async with await psycopg.AsyncConnection.connect(servers.database_url, autocommit=True) as owner:
        await owner.execute(f"CREATE DATABASE {name}".encode())
        try:
            yield psycopg.conninfo.make_conninfo(servers.database_url, dbname=name)
        finally:
            await owner.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
