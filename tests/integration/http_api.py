"""An API process for tests, and the shape of its errors."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from trellis.config import Settings
from trellis.model import Order


@dataclass
class Api:
    """An API process and a client on it."""

    process: asyncio.subprocess.Process
    address: str
    http: httpx.AsyncClient

    async def post(self, path: str, body: object = None, **options: Any) -> httpx.Response:
        return await self.http.post(path, json=body, **options) if body is not None else await self.http.post(path)


async def command(settings: Settings, *words: str, **environment: str) -> asyncio.subprocess.Process:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TRELLIS_")}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "trellis", "api", *words,
        env=clean | {"TRELLIS_HOME": str(settings.home), "COLUMNS": "300"} | environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


@asynccontextmanager
async def serving(settings: Settings, *words: str, **environment: str) -> AsyncIterator[Api]:
    process = await command(settings, *(words or ("--port", "0")), **environment)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
        assert line.startswith("API at http://"), line + (await process.stderr.read()).decode()
        address = line.split()[2].rstrip(",")
        limits = httpx.Limits(max_connections=400)
        async with httpx.AsyncClient(base_url=address, timeout=30, limits=limits, trust_env=False) as http:
            yield Api(process, address, http)
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.communicate(), 20)


def body_of(order: Order) -> dict[str, Any]:
    return {
        "payment_id": order.payment_id,
        "items": [{"sku": "book", "quantity": 2, "price": "12.50"}],
        "address": {"line1": "1 Main St"},
    }


async def until_listed(api: Api, order_id: str, state: str) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while True:
            status = (await api.http.get(f"/orders/{order_id}/status")).json()
            if status["state"] == state:
                return dict(status)
            await asyncio.sleep(0.05)


def assert_problem(answer: httpx.Response, *codes: int, name: str = "") -> None:
    assert answer.status_code in codes, (name, answer.status_code, answer.text[:300])
    assert answer.headers["content-type"] == "application/json"
    problem = answer.json()
    assert problem.keys() == {"error", "message"}, problem
    assert problem["message"].endswith("."), problem
    assert len(problem["message"]) < 400
    assert "Traceback" not in problem["message"]
