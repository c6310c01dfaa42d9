"""The worker that runs an app, for as long as it is wanted."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog
from temporalio.client import Client
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from trellis.errors import BadInput, TemporalUnavailable, TrellisError
from trellis.flying.app import App
from trellis.flying.cells import runner_for
from trellis.plugin import TrellisPlugin

log = structlog.get_logger("trellis.flying")

THREADS = 100
"""So many activities that are not async run at a time. The SDK's worker has as many slots."""

BEGINS = 30.0
ENDS = 10.0
"""How long a worker may take to begin, and to end [s]. An activity in a thread ends when it looks, or never."""

_OURS = ("client", "task_queue", "workflows", "activities")


class AppWorker:
    """One worker of an app with the plugin. It is started again when it fails by itself.

    plugin: makes the plugin of each worker. options: further arguments of the SDK's Worker, as the user would give
    them; without them everything is as the SDK has it, and activities that are not async get threads.
    """

    def __init__(
        self,
        client: Client,
        app: App,
        task_queue: str,
        plugin: Callable[[], TrellisPlugin],
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.client = client
        self.app = app
        self.task_queue = task_queue
        self._plugin = plugin
        self._options = _checked(options or {})
        self._worker: Worker | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._running: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to work. Raises BadInput for what the SDK refuses, TemporalUnavailable; then nothing runs."""
        await self._begin()
        self._keeping = asyncio.create_task(self._keep())

    async def stop(self) -> bool:
        """End the worker. Returns whether it has ended; an activity that does not end keeps its thread for itself."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        return await self._end()

    async def _begin(self) -> None:
        worker = self._made()
        running = asyncio.create_task(worker.run())
        self._worker, self._running = worker, running
        deadline = asyncio.get_running_loop().time() + BEGINS
        try:
            while not worker.is_running and not running.done():
                if asyncio.get_running_loop().time() > deadline:
                    raise TemporalUnavailable(f"The worker of {self.task_queue} did not begin within {BEGINS:.0f} s.")
                await asyncio.sleep(0.01)
            if running.done():
                running.result()
                raise TemporalUnavailable(f"The worker of {self.task_queue} ended at once.")
        except (TrellisError, asyncio.CancelledError):
            await self._end()
            raise
        except Exception as error:
            await self._end()
            raise TemporalUnavailable(f"The worker of {self.task_queue} cannot begin: {_why(error)}.") from None

    def _made(self) -> Worker:
        options = dict(self._options)
        self._threads = None
        if self.app.threaded and options.get("activity_executor") is None:
            # The SDK warns if there are more slots than threads.
            number = options.get("max_concurrent_activities") or THREADS
            self._threads = ThreadPoolExecutor(number, thread_name_prefix=f"flight-{self.task_queue}")
            options["activity_executor"] = self._threads
        runner = options.pop("workflow_runner", None) or SandboxedWorkflowRunner()
        plugins = list(options.pop("plugins", ()))
        if not any(isinstance(one, TrellisPlugin) for one in plugins):
            plugins.append(self._plugin())
        try:
            return Worker(
                self.client,
                task_queue=self.task_queue,
                workflows=self.app.workflows,
                activities=self.app.activities,
                workflow_runner=runner_for(self.app.workflows, runner),
                plugins=plugins,
                **options,
            )
        except TrellisError:
            self._drop_threads()
            raise
        except Exception as error:
            self._drop_threads()
            raise BadInput(f"The SDK refuses this worker: {_why(error)}.") from None

    async def _end(self) -> bool:
        worker, running, self._worker, self._running = self._worker, self._running, None, None
        if worker is None or running is None:
            return True
        # Only the signal counts: `shutdown` waits for ever for a worker that has never begun.
        stopping = asyncio.create_task(worker.shutdown())
        await asyncio.wait({running}, timeout=ENDS)
        stopping.cancel()
        ended = running.done()
        if not ended and not worker.is_running:
            # It never began to work, so there is nothing that it could finish.
            running.cancel()
            await asyncio.wait({running})
            ended = True
        if ended and not running.cancelled():
            # Read, or asyncio complains about an error that nobody has seen.
            running.exception()
        self._drop_threads()
        if not ended:
            log.warning(
                "an activity does not end; its worker takes nothing new, and its thread goes on until it returns",
                queue=self.task_queue,
            )
        return ended

    def _drop_threads(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    async def _keep(self) -> None:
        """Start a new worker whenever the last one has ended by itself, as it does when its server is away too long."""
        while True:
            assert self._running is not None
            await asyncio.wait({self._running})
            error = None if self._running.cancelled() else self._running.exception()
            log.error("a worker ended by itself; another one starts", queue=self.task_queue, error=_why(error))
            await self._end()
            while self._running is None:
                await asyncio.sleep(1)
                try:
                    await self._begin()
                except TrellisError as still:
                    log.warning("the worker cannot be started again yet", queue=self.task_queue, error=str(still))


def _why(error: BaseException | None) -> str:
    """An error of the SDK with its cause, which says what is wrong with a workflow's module."""
    if error is None:
        return "it was told to end"
    parts = [" ".join(str(error).split()) or type(error).__name__]
    if error.__cause__ is not None:
        parts.append(f"{type(error.__cause__).__name__}: {' '.join(str(error.__cause__).split())}")
    return ": ".join(part.rstrip(".") for part in parts)[:500]


def _checked(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options, if the SDK's Worker has them all. Raises BadInput."""
    known = set(inspect.signature(Worker.__init__).parameters) - {"self", *_OURS}
    unknown = sorted(set(options) - known)
    if unknown:
        raise BadInput(f"The SDK's Worker has no option {', '.join(unknown)}.")
    return options
