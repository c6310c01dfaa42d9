"""A Temporal server: an external one, this workspace's, or a new local one from the `temporal` program."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
from google.protobuf.duration_pb2 import Duration
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.service import RPCError, RPCStatusCode

from trellis.config import Settings
from trellis.errors import StackError, TemporalUnavailable
from trellis.stack.processes import go_on, length, lines_since, serves, spawn, wait_for_end

LASTING_PORTS = range(15_000, 32_000)
ATTRIBUTES = {
    "OrderState": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "OrderTotal": IndexedValueType.INDEXED_VALUE_TYPE_DOUBLE,
}


@dataclass(frozen=True)
class TemporalTarget:
    """The address of a Temporal. `profile` names an envconfig profile that holds address, keys and TLS."""

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
        # The further lines repeat a line of the file, which may hold the key.
        why = (str(error) or type(error).__name__).splitlines()[0].rstrip(". ")
        raise TemporalUnavailable(f"The Temporal profile {name!r} cannot be read: {why}.") from None


def running(settings: Settings) -> TemporalTarget | None:
    """This workspace's server, or None. A state file of an ended process, or from before a reboot, counts as none."""
    process, state = _process(settings.home)
    if process is None:
        return None
    return TemporalTarget(state["address"], settings.temporal_namespace or state["namespace"], state["ui"])


def process(home: Path) -> psutil.Process | None:
    """The process of this workspace's server; None if there is none."""
    return _process(home)[0]


def last_address(home: Path) -> str | None:
    """Where this workspace's server runs, or ran before it ended."""
    ports = _last_ports(home)
    return None if ports is None else f"127.0.0.1:{ports[0]}"


def _database(home: Path) -> Path:
    return home / "temporal.db"


def _log(home: Path) -> Path:
    return home / "temporal.log"


def _process(home: Path) -> tuple[psutil.Process | None, dict[str, Any]]:
    try:
        state = json.loads((home / "stack.json").read_text("utf-8"))
        process = psutil.Process(state["pid"])
        if serves(process, "--db-filename", _database(home)) and {"address", "ui", "namespace"} <= state.keys():
            return process, state
        return None, {}
    except psutil.Error:
        return None, {}
    except (ValueError, KeyError, TypeError, OSError):
        return _adopt(home)


def _adopt(home: Path) -> tuple[psutil.Process | None, dict[str, Any]]:
    """The state file is broken or lost: find the server, if it runs, by its database file.

    A second server on the same file would damage it.
    """
    if not _database(home).exists():
        return None, {}
    for process in psutil.process_iter():
        if not serves(process, "--db-filename", _database(home)):
            continue
        try:
            line = process.cmdline()
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
    target = external(settings)
    if target is not None:
        await connect(target, wait=5)
        return target
    target = running(settings)
    if target is not None:
        await ensure_namespace(target)
        return target
    if set("?#%") & set(str(settings.home)):
        raise TemporalUnavailable(
            f"Temporal cannot keep its data in {settings.home}, because the name has ?, # or % in it. "
            f"Point TRELLIS_HOME elsewhere."
        )
    program = await _program(settings)
    wanted = _last_ports(settings.home)
    before = length(_log(settings.home))
    for _ in range(3):
        ports = wanted if wanted and all(map(_free, wanted)) else (_free_port(), _free_port())
        target = await _start(settings, program, *ports)
        if target is not None:
            return target
        wanted = None
    log = _log(settings.home)
    last = (lines_since(log, before) or ["its log is empty"])[-1]
    raise TemporalUnavailable(f"The local Temporal server does not start ({last[:300]}). See {log}.")


async def ensure_namespace(target: TemporalTarget) -> None:
    """Create the namespace: TEMPORAL_NAMESPACE may have changed since our server was started."""
    try:
        try:
            await connect(target, wait=1)
        except TemporalUnavailable:
            client = await Client.connect(target.address, namespace=target.namespace)
            await client.workflow_service.register_namespace(
                RegisterNamespaceRequest(
                    namespace=target.namespace, workflow_execution_retention_period=Duration(seconds=3 * 86400)
                ),
                timeout=timedelta(seconds=5),
            )
            await connect(target, wait=5)
    except (RPCError, RuntimeError, TemporalUnavailable):
        raise TemporalUnavailable(
            f"This workspace's Temporal at {target.address} runs but does not answer. Run `trellis down`, then "
            f"`trellis up`."
        ) from None


async def _program(settings: Settings) -> str:
    if settings.temporal_cli is not None:
        if not settings.temporal_cli.is_file() or not os.access(settings.temporal_cli, os.X_OK):
            raise TemporalUnavailable(
                f"TRELLIS_TEMPORAL_CLI names {settings.temporal_cli}, and no such program exists."
            )
        return str(settings.temporal_cli)
    installed = Path(sys.executable).with_name("temporal")
    found = str(installed) if installed.is_file() else shutil.which("temporal")
    if found is not None:
        return found
    # The last resort is the SDK's own download, which needs the open internet.
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
    """The new server. None if its process ended at once, as it does if another process has just taken the port."""
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
    try:
        child = spawn(line, _log(home))
    except OSError as error:
        raise TemporalUnavailable(f"{program} cannot be run: {error.strerror or error}.") from None
    process = psutil.Process(child.pid)
    state = _state(process, port, ui, namespace)
    _save(home, state)
    target = TemporalTarget(state["address"], namespace, state["ui"])
    for _ in range(200):
        if child.poll() is not None:
            return None
        if _listens(process, port):
            try:
                await connect(target, wait=10)
                return target
            except TemporalUnavailable:
                if child.poll() is not None:
                    return None
                down(home)
                raise
        await asyncio.sleep(0.05)
    down(home)
    return None


def _listens(process: psutil.Process, port: int) -> bool:
    """Whether this process listens on the port. Another may have taken the port since it was chosen."""
    try:
        return any(
            one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in process.net_connections("tcp")
        )
    except psutil.Error:
        return False


def _last_ports(home: Path) -> tuple[int, int] | None:
    """The ports of the last run, so that a bookmark of Temporal's UI keeps working."""
    try:
        state = json.loads((home / "stack.json").read_text("utf-8"))
        return int(state["address"].rsplit(":", 1)[1]), int(state["ui"].rsplit(":", 1)[1])
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None


async def ports_released(home: Path, seconds: float = 10.0) -> None:
    """Wait until nobody listens on the ports of the last run, or until `seconds` are over.

    A killed process counts as ended when its first thread has. Its sockets live until its last thread has ended, too.
    """
    ports = _last_ports(home) or ()
    deadline = asyncio.get_running_loop().time() + seconds
    while not all(map(_free, ports)) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.05)


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _free_port() -> int:
    """A free port, below those that the system gives to outgoing connections.

    A server that is started again must get its port back. In the system's range any program that connects to anything
    meanwhile could hold it, even a client of this very server that tries to reach it.
    """
    for port in random.sample(LASTING_PORTS, 50):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
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
        go_on(process)
        if wait_for_end(process, 15):
            return True
        process.kill()
    except psutil.NoSuchProcess:
        return True
    if not wait_for_end(process, 5):
        raise StackError(f"Temporal (process {process.pid}) does not end.")
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
        except ValueError as error:
            raise TemporalUnavailable(
                f"{target.address!r} is not the address of a Temporal ({error}). Write it as host:port."
            ) from None
        if asyncio.get_running_loop().time() >= deadline - 0.1:
            raise TemporalUnavailable(
                f"Temporal at {target.address} does not answer ({' '.join(why.split())[:200]}). Start it with "
                f"`trellis up`, or correct TEMPORAL_ADDRESS."
            )
        await asyncio.sleep(0.1)


async def ensure_search_attributes(client: Client) -> bool:
    """Add OrderState and OrderTotal if the server lacks them. Returns whether it has both now."""
    operator = client.operator_service

    async def known() -> dict[str, Any]:
        answer = await operator.list_search_attributes(ListSearchAttributesRequest(namespace=client.namespace))
        return dict(answer.custom_attributes)

    try:
        there = await known()
        missing = {name: kind for name, kind in ATTRIBUTES.items() if name not in there}
        if missing:
            try:
                await operator.add_search_attributes(
                    AddSearchAttributesRequest(search_attributes=missing, namespace=client.namespace)
                )
            except RPCError as error:
                # Another process may have added them first.
                if error.status is not RPCStatusCode.ALREADY_EXISTS:
                    return False
            there = await known()
        # An attribute of another type would fail the workflow task for ever.
        return all(there.get(name) == kind for name, kind in ATTRIBUTES.items())
    except RPCError:
        return False
