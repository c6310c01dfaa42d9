"""A Temporal server: somebody's, this workspace's, or a new local one from the `temporal` program."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.service import RPCError, RPCStatusCode

from trellis.config import Settings
from trellis.errors import StackError, TemporalUnavailable

ATTRIBUTES = {
    "OrderState": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "OrderTotal": IndexedValueType.INDEXED_VALUE_TYPE_DOUBLE,
}

# Servers outlive the call that starts them; a dropped Popen would warn of that, and leave a zombie when one ends.
_children: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class TemporalTarget:
    """Where a Temporal is. `profile` names an envconfig profile that holds address, keys and TLS."""

    address: str
    namespace: str
    ui: str | None = None
    external: bool = False
    profile: str | None = None


def external(settings: Settings) -> TemporalTarget | None:
    """The server that the settings name, or None."""
    if settings.temporal_address is not None:
        return TemporalTarget(settings.temporal_address, settings.temporal_namespace or "default", external=True)
    if settings.temporal_profile is not None:
        config = _profile(settings.temporal_profile)
        return TemporalTarget(
            config.get("target_host", "localhost:7233"),
            settings.temporal_namespace or config.get("namespace", "default"),
            external=True,
            profile=settings.temporal_profile,
        )
    return None


def _profile(name: str) -> dict[str, Any]:
    try:
        return dict(ClientConfig.load_client_connect_config(profile=name))
    except Exception as error:
        raise TemporalUnavailable(f"The Temporal profile {name!r} cannot be read: {error}.") from None


def running(home: Path) -> TemporalTarget | None:
    """This workspace's server, or None. A state file of a dead process, or of before a reboot, counts as none."""
    process, state = _process(home)
    if process is None:
        return None
    return TemporalTarget(state["address"], state["namespace"], state["ui"])


def _database(home: Path) -> Path:
    return home / "temporal.db"


def _process(home: Path) -> tuple[psutil.Process | None, dict[str, Any]]:
    try:
        state = json.loads((home / "stack.json").read_text("utf-8"))
        process = psutil.Process(state["pid"])
        # A process id alone may have been given to somebody else since.
        if abs(process.create_time() - state["created"]) < 1 and process.status() != psutil.STATUS_ZOMBIE:
            return process, state
        return None, {}
    except (FileNotFoundError, psutil.Error):
        return None, {}
    except (ValueError, KeyError, TypeError, OSError):
        return _adopt(home)


def _adopt(home: Path) -> tuple[psutil.Process | None, dict[str, Any]]:
    """The state file is broken: the server, if it lives, is known by its database file."""
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            if str(_database(home)) in line and "start-dev" in line:
                port, ui, namespace = (line[line.index(name) + 1] for name in ("--port", "--ui-port", "--namespace"))
                state = _state(process, int(port), int(ui), namespace)
                _save(home, state)
                return process, state
        except (psutil.Error, ValueError, IndexError):
            continue
    return None, {}


def _state(process: psutil.Process, port: int, ui: int, namespace: str) -> dict[str, Any]:
    return {
        "pid": process.pid,
        "created": process.create_time(),
        "address": f"127.0.0.1:{port}",
        "ui": f"http://127.0.0.1:{ui}",
        "namespace": namespace,
    }


def _save(home: Path, state: dict[str, Any]) -> None:
    fresh = home / "stack.json.new"
    fresh.write_text(json.dumps(state), "utf-8")
    fresh.replace(home / "stack.json")


async def up(settings: Settings) -> TemporalTarget:
    """A Temporal that answers. Raises TemporalUnavailable."""
    target = external(settings) or running(settings.home)
    if target is not None:
        await connect(target, wait=5)
        return target
    program = await _program(settings)
    wanted = _last_ports(settings.home)
    for _ in range(3):
        ports = wanted if wanted and all(map(_free, wanted)) else (_free_port(), _free_port())
        target = await _start(settings, program, *ports)
        if target is not None:
            return target
        wanted = None
    log = settings.home / "temporal.log"
    said = log.read_text("utf-8", "replace").strip().splitlines()[-1:] or ["it said nothing"]
    raise TemporalUnavailable(f"The local Temporal server does not start ({said[0][:300]}). See {log}.")


async def _program(settings: Settings) -> str:
    if settings.temporal_cli is not None:
        if not settings.temporal_cli.is_file():
            raise TemporalUnavailable(
                f"TRELLIS_TEMPORAL_CLI names {settings.temporal_cli}, and no such program exists."
            )
        return str(settings.temporal_cli)
    ours = Path(sys.executable).with_name("temporal")
    found = str(ours) if ours.is_file() else shutil.which("temporal")
    if found is not None:
        return found
    # The SDK's own download, as the last resort: it needs the open internet.
    from temporalio.testing import WorkflowEnvironment

    try:
        async with asyncio.timeout(120):
            probe = await WorkflowEnvironment.start_local(download_dest_dir=str(settings.home))
            await probe.shutdown()
        return str(next(path for path in settings.home.glob("temporal-*") if path.is_file()))
    except Exception:
        raise TemporalUnavailable(
            "No `temporal` program was found, and none could be downloaded. Run `make setup`, or name one in "
            "TRELLIS_TEMPORAL_CLI, or name a server in TEMPORAL_ADDRESS."
        ) from None


async def _start(settings: Settings, program: str, port: int, ui: int) -> TemporalTarget | None:
    """None: the process ended at once, which is what a port that was taken meanwhile looks like."""
    home = settings.home
    namespace = settings.temporal_namespace or "default"
    line = [
        program, "server", "start-dev", "--ip", "127.0.0.1", "--port", str(port), "--ui-port", str(ui),
        "--ui-ip", "127.0.0.1", "--db-filename", str(_database(home)), "--namespace", namespace,
        # Without these the database file makes the server four times slower.
        "--sqlite-pragma", "journal_mode=WAL", "--sqlite-pragma", "synchronous=NORMAL",
        # The dev server spaces a workflow's steps 50 ms apart by default; a managed cluster does not.
        "--dynamic-config-value", "history.transferProcessorMaxPollRPS=1000",
        "--dynamic-config-value", "history.timerProcessorMaxPollRPS=1000",
        "--search-attribute", "OrderState=Keyword", "--search-attribute", "OrderTotal=Double",
        "--log-level", "error",
    ]  # fmt: skip
    with (home / "temporal.log").open("ab") as log:
        child = subprocess.Popen(  # noqa: ASYNC220 -- returns at once; the server must outlive this process
            line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    _children.append(child)
    process = psutil.Process(child.pid)
    state = _state(process, port, ui, namespace)
    _save(home, state)
    target = TemporalTarget(state["address"], namespace, state["ui"])
    for _ in range(200):
        if child.poll() is not None:
            return None
        if not _free(port):
            try:
                await connect(target, wait=10)
                return target
            except TemporalUnavailable:
                child.terminate()
                child.wait(10)
                raise
        await asyncio.sleep(0.05)
    child.terminate()
    child.wait(10)
    return None


def _last_ports(home: Path) -> tuple[int, int] | None:
    """The ports of the last run, so that a bookmark of Temporal's UI keeps working."""
    try:
        state = json.loads((home / "stack.json").read_text("utf-8"))
        return int(state["address"].rsplit(":", 1)[1]), int(state["ui"].rsplit(":", 1)[1])
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def down(home: Path) -> bool:
    """End this workspace's server; True if there was one."""
    process, _ = _process(home)
    if process is None:
        return False
    try:
        process.terminate()
        process.wait(15)
    except psutil.NoSuchProcess:
        pass
    except psutil.TimeoutExpired:
        process.kill()
        try:
            process.wait(5)
        except psutil.TimeoutExpired:
            raise StackError(f"Temporal (process {process.pid}) does not end.") from None
    return True


async def connect(target: TemporalTarget, *, wait: float = 10.0, **options: Any) -> Client:
    """A client whose namespace exists. Raises TemporalUnavailable within about `wait` seconds."""
    deadline = asyncio.get_running_loop().time() + wait
    config: dict[str, Any] = _profile(target.profile) if target.profile else {}
    config |= {"target_host": target.address, "namespace": target.namespace} | options
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                client = await Client.connect(**config)
                await client.workflow_service.describe_namespace(
                    DescribeNamespaceRequest(namespace=target.namespace), timeout=timedelta(seconds=wait)
                )
                return client
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND and asyncio.get_running_loop().time() > deadline - wait / 2:
                raise TemporalUnavailable(
                    f"Temporal at {target.address} has no namespace {target.namespace!r}. Create it, or correct "
                    f"TEMPORAL_NAMESPACE."
                ) from None
            if error.status is RPCStatusCode.PERMISSION_DENIED:
                raise TemporalUnavailable(
                    f"Temporal at {target.address} denies access to {target.namespace!r}."
                ) from None
            why = error.message
        except (RuntimeError, TimeoutError) as error:
            why = str(error) or "no answer"
        if asyncio.get_running_loop().time() >= deadline - 0.1:
            raise TemporalUnavailable(
                f"Temporal at {target.address} does not answer ({' '.join(why.split())[:200]}). Start it with "
                f"`trellis up`, or correct TEMPORAL_ADDRESS."
            )
        await asyncio.sleep(0.1)


async def ensure_search_attributes(client: Client) -> bool:
    """Are OrderState and OrderTotal known, after asking the server to add what it lacks?"""
    try:
        operator = client.operator_service
        answer = await operator.list_search_attributes(ListSearchAttributesRequest(namespace=client.namespace))
        missing = {name: kind for name, kind in ATTRIBUTES.items() if name not in answer.custom_attributes}
        if missing:
            await operator.add_search_attributes(
                AddSearchAttributesRequest(search_attributes=missing, namespace=client.namespace)
            )
        return True
    except RPCError:
        return False
