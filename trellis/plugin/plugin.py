"""The plugin of Temporal's SDK."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import is_dataclass, replace
from typing import TYPE_CHECKING, Any

import temporalio.client
import temporalio.worker
from temporalio.client import Client, ClientConfig, WorkflowHistory
from temporalio.service import ConnectConfig, ServiceClient
from temporalio.worker import Replayer, ReplayerConfig, Worker, WorkerConfig, WorkflowReplayResult
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from trellis.errors import ConfigError, TrellisError
from trellis.faults import AnyName, FaultPlan
from trellis.plugin.app import App
from trellis.plugin.injecting import Injecting
from trellis.plugin.noting import Noting, apps
from trellis.plugin.plans import Names
from trellis.plugin.saying import Saying

if TYPE_CHECKING:
    from trellis.config import Settings

PASSED_THROUGH = (
    "trellis.errors", "trellis.faults", "trellis.flaky", "trellis.flights", "trellis.model", "trellis.outages",
    "trellis.plugin", "trellis.retrying",
)  # fmt: skip
"""What a file that holds workflows may import beside them, for its worker and its activities. Without this, the sandbox
would import it again for each workflow."""


class TrellisPlugin(temporalio.client.Plugin, temporalio.worker.Plugin):
    """Notes every attempt of every activity of a worker in the book of flights, and injects faults if asked.

    Give it to a worker, ``Worker(..., plugins=[TrellisPlugin()])``, or to the client of its workers. The worker's
    activities and workflows stay as they are, and nothing of the plugin can fail or delay them.

    faults: which calls fail, a plan or text as TRELLIS_FAULTS takes it. Its names are the worker's activity types, or
        "WorkflowType/activity_type". None: the plan that a board has put in force for this namespace and task queue.
    database_url: the book. None: DATABASE_URL, or else the database of the workspace (TRELLIS_HOME).
    book: False: no attempt is noted, and only a plan given here is followed.
    namespace: a namespace beyond loopback in which faults may be injected.
    retention_days: how long rows are kept.
    payloads: note inputs and results too, as the worker's payload converter reads them.
    held: how many rows may wait for a database that is away.
    settings: of another workspace than the one that the environment names.

    Raises ConfigError for a value that cannot be used. A worker raises it for a plan that names no activity type of it,
    and for faults in a namespace beyond loopback that is not named.
    """

    def __init__(
        self,
        faults: FaultPlan | str | None = None,
        database_url: str | None = None,
        *,
        book: bool = True,
        namespace: str | None = None,
        retention_days: float = 30,
        payloads: bool = False,
        held: int = 100_000,
        settings: Settings | None = None,
    ) -> None:
        if not isinstance(faults, FaultPlan | str | None):
            raise ConfigError('faults must be a FaultPlan, text such as "charge: error, ok", or None.')
        if isinstance(retention_days, bool) or not isinstance(retention_days, int | float) or not retention_days > 0:
            raise ConfigError("retention_days must be more than 0.")
        if isinstance(held, bool) or not isinstance(held, int) or held < 1:
            raise ConfigError("held must be a whole number of rows, 1 or more.")
        if database_url is not None:
            from trellis.plugin.where import checked

            checked(database_url)
        self._faults = faults
        self._database_url = database_url
        self._book = book
        self._namespace = namespace
        self._retention = min(float(retention_days), 36_500.0) * 86_400
        self._payloads = payloads
        self._held = held
        self._settings = settings
        self._saying = Saying()

    def name(self) -> str:
        return "trellis.TrellisPlugin"

    # client

    def configure_client(self, config: ClientConfig) -> ClientConfig:
        """Nothing: the workers of the client take the plugin from it."""
        return config

    async def connect_service_client(
        self, config: ConnectConfig, next: Callable[[ConnectConfig], Awaitable[ServiceClient]]
    ) -> ServiceClient:
        return await next(config)

    # worker

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        """Add the interceptors. Raises ConfigError for faults that cannot be injected here, and nothing else."""
        try:
            given = list(config.get("interceptors") or [])
            if apps(given):
                self._saying.once(
                    f"twice {config['task_queue']}",
                    f"TrellisPlugin was given twice to the worker of {config['task_queue']}; the first one counts.",
                )
                return config
            app = self._app(config)
            config["interceptors"] = [Noting(app), *given, Injecting(app)]
            if "workflow_runner" in config:
                config["workflow_runner"] = _passing(config["workflow_runner"])
        except ConfigError:
            raise
        except Exception as error:
            self._saying.once("worker", f"No attempts are noted ({type(error).__name__}: {error}).")
        return config

    def _app(self, config: WorkerConfig) -> App:
        client = config["client"]
        types = _types(config.get("activities") or ())
        refused = self._why_not(client)
        own = None
        if self._faults is not None:
            # A client has several workers, and the plan is for all of them. A worker without activities has none to
            # name.
            shared = any(one is self for one in client.config()["plugins"]) or not types
            own = _plan(self._faults, AnyName() if shared else Names(types or ()))
            if refused is not None:
                raise ConfigError(refused)
        return App(
            client.namespace, config["task_queue"], config.get("identity") or client.identity, types, own=own,
            refused=refused, payloads=self._payloads, book=self._book,
        )  # fmt: skip

    def _why_not(self, client: Client) -> str | None:
        """Why no faults may be injected into the client's namespace; None if they may."""
        host = str(client.service_client.config.target_host)
        if is_loopback(host) or self._namespace == client.namespace:
            return None
        return (
            f"The server {host} is not on this machine, so no faults are injected into its namespace "
            f"{client.namespace}. If that is what you want, name it: TrellisPlugin(namespace={client.namespace!r})."
        )

    async def run_worker(self, worker: Worker, next: Callable[[Worker], Awaitable[None]]) -> None:
        """Run the worker, and note its attempts for as long as it runs."""
        app = self._begun(worker)
        try:
            await next(worker)
        finally:
            if app is not None:
                await self._ended(app)

    def _begun(self, worker: Worker) -> App | None:
        try:
            found = apps(worker.config(active_config=True).get("interceptors") or [])
            # Another one's app, or this one's for the second time.
            if not found or found[0].running:
                return None
            app = found[0]
            app.running = True
            app.started()
            if self._book:
                # Only now: a worker that never runs needs no thread and no file.
                from trellis.config import of_an_app
                from trellis.plugin.delivery import acquire
                from trellis.plugin.where import where

                app.delivery = acquire(
                    where(self._settings or of_an_app(), self._database_url), self._held, self._retention
                )
                if app.own is None:
                    app.delivery.followers.append(app)
            return app
        except Exception as error:
            why = str(error) if isinstance(error, TrellisError) else f"{type(error).__name__}: {error}"
            self._saying.once("begin", f"No attempts are noted: {why}")
            return None

    async def _ended(self, app: App) -> None:
        app.running = False
        delivery, app.delivery = app.delivery, None
        if delivery is None:
            return
        try:
            from trellis.plugin.delivery import release

            if app in delivery.followers:
                delivery.followers.remove(app)
            await release(delivery)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            app.trouble(error)

    # replayer

    def configure_replayer(self, config: ReplayerConfig) -> ReplayerConfig:
        """A replay runs no activities, so there is nothing to note. The workflows run in the same sandbox."""
        if "workflow_runner" in config:
            config["workflow_runner"] = _passing(config["workflow_runner"])
        return config

    def run_replayer(
        self, replayer: Replayer, histories: AsyncIterator[WorkflowHistory],
        next: Callable[
            [Replayer, AsyncIterator[WorkflowHistory]],
            AbstractAsyncContextManager[AsyncIterator[WorkflowReplayResult]],
        ],
    ) -> AbstractAsyncContextManager[AsyncIterator[WorkflowReplayResult]]:  # fmt: skip
        return next(replayer, histories)


def _types(activities: Sequence[Callable[..., Any]]) -> tuple[str, ...] | None:
    """The types of these activities. None if one of them is dynamic, because it takes any type."""
    found = [getattr(one, "__temporal_activity_definition", None) for one in activities]
    names = [one.name for one in found if one is not None]
    return None if None in names else tuple(str(name) for name in names)


def _plan(faults: FaultPlan | str, names: tuple[str, ...]) -> FaultPlan:
    """The plan, if it makes sense for these activity types. Raises ConfigError."""
    if isinstance(faults, str):
        return FaultPlan.parse(faults, names).check()
    return replace(faults, names=names).check()


def _passing(runner: Any) -> Any:
    if not isinstance(runner, SandboxedWorkflowRunner) or not is_dataclass(runner):
        return runner
    return replace(runner, restrictions=runner.restrictions.with_passthrough_modules(*PASSED_THROUGH))


def is_loopback(host: str) -> bool:
    """Whether "host:port" is on this machine."""
    name, colon, port = host.rpartition(":")
    # "::1" alone has colons and no port.
    name = (name if colon and port.isdigit() and (":" not in name or name.endswith("]")) else host).strip("[]")
    name = name.rstrip(".").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
