"""A worker process with the plugin, for tests that kill it: address, queue, database and workspace as arguments."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from temporalio.client import Client
from temporalio.worker import Worker

from tests.integration.flown_app import ACTIVITIES, Calls, TrellisPlugin
from trellis.config import Settings


async def main(address: str, queue: str, database: str, home: str) -> None:
    client = await Client.connect(address)
    plugin = TrellisPlugin(database_url=database, settings=Settings.model_validate({"TRELLIS_HOME": Path(home)}))
    activities = [one for one in ACTIVITIES if "thread" not in one.__name__]
    await Worker(client, task_queue=queue, workflows=[Calls], activities=activities, plugins=[plugin]).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
