"""The API over real HTTP: a process of its own, on the real servers."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as how
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.conftest import House
from trellis import stack
from trellis.api.app import create
from trellis.api.bodies import read_cursor, write_cursor
from trellis.api.schema import START
from trellis.config import Settings
from trellis.db.ledger import Ledger
from trellis.db.migrate import migrate
from trellis.db.pool import Pool, open_pool
from trellis.desk import Desk
from trellis.errors import BadInput, DatabaseUnavailable
from trellis.model import Order, State, workflow_id
from trellis.parsing import parse_start
from trellis.policies import preset, tuned
from trellis.temporal_calls import describe
from trellis.workers import running as working


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


@pytest.fixture(scope="module")
async def api(settings: Settings, running: stack.Stack, idle_desk: Desk) -> AsyncIterator[Api]:
    async with serving(settings) as api:
        yield api


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


async def test_an_order_runs_over_http_from_start_to_end(house: House, api: Api) -> None:
    """201, 200 for the same again, 409 for another body, 202 for approve, then COMPLETED with both books balanced."""
    order = house.order()
    path = f"/orders/{order.order_id}"
    first = await api.post(f"{path}/start", body_of(order))
    assert (first.status_code, first.json()["workflow_id"]) == (201, workflow_id(order.order_id))
    early = await api.http.get(f"{path}/status")
    assert (early.status_code, early.json()["order_id"]) == (200, order.order_id)
    again = await api.post(f"{path}/start", body_of(order))
    assert (again.status_code, again.json()) == (200, first.json())
    other = await api.post(f"{path}/start", {"payment_id": order.payment_id})
    assert (other.status_code, other.json()["error"]) == (409, "conflict")
    await house.until(order, "AWAITING_APPROVAL")
    thief = await api.post("/orders/thief/start", {"payment_id": order.payment_id})
    assert thief.status_code == 409
    assert order.order_id in thief.json()["message"]
    approved = await api.post(f"{path}/signals/approve")
    assert (approved.status_code, approved.json()["verdict"]) == (202, "accepted")
    await house.ends(order, State.COMPLETED)
    after = await api.post(f"{path}/start", body_of(order))
    assert (after.status_code, after.json()) == (200, first.json())
    status = (await api.http.get(f"{path}/status")).json()
    assert {"order_id", "state", "step", "last_error"} <= status.keys()
    assert (status["state"], status["payment"]["status"], status["step"]) == ("COMPLETED", "CHARGED", None)
    assert len(status["shipments"]) == 1
    events = (await api.http.get(f"{path}/events")).json()["events"]
    assert [event["type"] for event in events] == await house.events(order)
    late = await api.post(f"{path}/signals/cancel", {})
    assert (late.status_code, late.json()["error"]) == (409, "refused")
    assert "COMPLETED" in late.json()["message"]


@pytest.mark.parametrize(
    "rest",
    [
        {},
        {"items": [], "address": None},
        {"items": None},
        {"address": {"street": "1 Main St", "city": "c", "state": "s", "zip": "z", "country": "x"}},
        {"items": [{"name": "book", "qty": 2, "price": 1.5}]},
        {"items": [{"sku": "book"}], "address": {"line1": "Straße 1, 東京"}},
    ],
)
async def test_every_form_of_a_start_is_taken(house: House, api: Api, rest: dict[str, Any]) -> None:
    """A payment id alone, items under both names, addresses under both names, and null for none."""
    order = house.order()
    answer = await api.post(f"/orders/{order.order_id}/start", {"payment_id": order.payment_id} | rest)
    assert answer.status_code == 201, answer.text
    await house.until(order, "AWAITING_APPROVAL")
    assert (await api.post(f"/orders/{order.order_id}/signals/approve", {})).status_code == 202
    status = await house.ends(order, State.COMPLETED)
    assert str(status["total"]) == ("3.00" if "price" in str(rest) else "0.00")


async def test_aliases_are_the_same_body(house: House, api: Api) -> None:
    """The hash is of what was meant: name and sku, 1.50 and "1.5" start one run."""
    order = house.order()
    path = f"/orders/{order.order_id}/start"
    forms = [{"sku": "book", "quantity": 2, "price": "1.5"}, {"name": " book ", "qty": 2, "price": 1.50}]
    answers = [await api.post(path, {"payment_id": order.payment_id, "items": [form]}) for form in forms]
    assert [answer.status_code for answer in answers] == [201, 200]
    assert answers[0].json() == answers[1].json()


@pytest.mark.parametrize("path", ["signals/update-address", "address"])
@pytest.mark.parametrize("wrapped", [True, False])
async def test_every_form_of_a_new_address_is_taken(house: House, api: Api, path: str, wrapped: bool) -> None:
    """Bare or wrapped, on either path; the ledger holds the new one."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    address = {"street": "2 New Road", "city": "x"}
    answer = await api.post(f"/orders/{order.order_id}/{path}", {"address": address} if wrapped else address)
    assert (answer.status_code, answer.json()["verdict"]) == (202, "accepted")
    status = (await api.http.get(f"/orders/{order.order_id}/status")).json()
    assert (status["address"]["line1"], status["step"], status["can_cancel"]) == ("2 New Road", "review", True)
    assert status["seconds_left"] > 0


@pytest.mark.parametrize("content", [b"", b"{}", b'{"reason": "changed my mind"}', b'{"reason": null}'])
async def test_every_form_of_a_cancel_is_taken(house: House, api: Api, content: bytes) -> None:
    """No body, an empty one, or a reason."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    answer = await api.http.post(f"/orders/{order.order_id}/signals/cancel", content=content)
    assert (answer.status_code, answer.json()["verdict"]) == (202, "accepted")
    await house.ends(order, State.CANCELLED)


async def test_an_unknown_order_is_404_everywhere(house: House, api: Api) -> None:
    """Every path of an order that nobody started says so in one sentence."""
    for path in ("status", "events"):
        answer = await api.http.get(f"/orders/nobody/{path}")
        assert (answer.status_code, answer.json()["error"]) == (404, "not_found")
    for path, body in [("signals/approve", None), ("signals/cancel", {}), ("address", {"line1": "x"})]:
        answer = await api.post(f"/orders/nobody/{path}", body)
        assert (answer.status_code, answer.json()["error"]) == (404, "not_found"), path


async def test_pages_hold_every_order_once(house: House, api: Api) -> None:
    """Following `next` shows every order of a state once, newest first, while new ones arrive."""
    orders = [await house.start() for _ in range(5)]
    for order in orders:
        await house.until(order, "AWAITING_APPROVAL")
    seen: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        page = (await api.http.get("/orders", params={"limit": 2, "state": "AWAITING_APPROVAL"} | after)).json()
        seen += page["orders"]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
        await house.start()
    ids = [row["id"] for row in seen]
    assert len(ids) == len(set(ids))
    assert {order.order_id for order in orders} <= set(ids)
    assert [row["created_at"] for row in seen] == sorted((row["created_at"] for row in seen), reverse=True)


@pytest.mark.parametrize("text", ["", "x", "====", "Zm9v", "A" * 500, "MjAyNg", "é", "2026-01-01T00:00:00+00:00 a"])
def test_a_cursor_of_ones_own_making_is_refused(text: str) -> None:
    """Only what an earlier answer gave is a cursor."""
    with pytest.raises(BadInput, match="cursor"):
        read_cursor(text)


async def test_a_cursor_says_where_a_page_ended(house: House) -> None:
    """Written and read again it is the same place, to the microsecond."""
    await house.start()
    row = None
    async with asyncio.timeout(20):
        while row is None:
            row = next(iter(await house.desk.orders(limit=1)), None)
    assert read_cursor(write_cursor(row.created_at, row.id)) == (row.created_at, row.id)


def _start(**more: str) -> bytes:
    fields = {"payment_id": '"hostile-pay"'} | more
    return ("{" + ",".join(f'"{name}": {value}' for name, value in fields.items()) + "}").encode()


def _item(**fields: str) -> bytes:
    return _start(items="[{" + ",".join(f'"{name}": {value}' for name, value in fields.items()) + "}]")


HOSTILE_BODIES = {
    "empty": b"",
    "not json": b"payment_id=1",
    "half": b'{"payment_id": "p',
    "list": b"[]",
    "text": b'"p"',
    "number": b"5",
    "null": b"null",
    "no payment": b"{}",
    "payment null": b'{"payment_id": null}',
    "payment number": b'{"payment_id": 5}',
    "payment sql": b'{"payment_id": "p\'; DROP TABLE orders; --"}',
    "payment long": b'{"payment_id": "' + b"a" * 65 + b'"}',
    "payment newline": b'{"payment_id": "a\\n"}',
    "unknown field": _start(policy='"swift"'),
    "twice": b'{"payment_id": "hostile-pay", "payment_id": "other"}',
    "NaN": _item(sku='"a"', price="NaN"),
    "Infinity": _item(sku='"a"', price="Infinity"),
    "-Infinity": _item(sku='"a"', price="-Infinity"),
    "NaN as text": _item(sku='"a"', price='"NaN"'),
    "NaN elsewhere": b"NaN",
    "1e400": _item(sku='"a"', price="1e400"),
    "1e999999 as text": _item(sku='"a"', price='"1e999999"'),
    "1e-999999": _item(sku='"a"', price="1e-999999"),
    "1e-9999999999": _item(sku='"a"', price="1e-9999999999"),
    "exponent beyond": _item(sku='"a"', price="1e99999999999999999999"),
    "third decimal": _item(sku='"a"', price="0.001"),
    "thirtieth decimal": _item(sku='"a"', price="0.100000000000000000000000000001"),
    "negative": _item(sku='"a"', price="-0.01"),
    "many digits": _item(sku='"a"', price="9" * 5000),
    "quantity of many digits": _item(sku='"a"', quantity="9" * 5000),
    "quantity 0": _item(sku='"a"', quantity="0"),
    "quantity -1": _item(sku='"a"', quantity="-1"),
    "quantity 1.5": _item(sku='"a"', quantity="1.5"),
    "quantity true": _item(sku='"a"', quantity="true"),
    "quantity text": _item(sku='"a"', quantity='"2"'),
    "both names": _item(sku='"a"', name='"b"'),
    "total too large": _item(sku='"a"', quantity="2", price="99999999.99"),
    "items object": _start(items="{}"),
    "too many items": _start(items="[" + ",".join(['{"sku":"a"}'] * 501) + "]"),
    "sku NUL": _item(sku='"a\\u0000b"'),
    "sku control": _item(sku='"a\\u001bb"'),
    "sku raw control": _item(sku='"a\x01b"'),
    "sku surrogate": _item(sku='"\\ud800"'),
    "sku long": _item(sku='"' + "a" * 201 + '"'),
    "sku empty": _item(sku='" "'),
    "sku C1": _item(sku='"a\\u009b31mb"'),
    "sku next line": _item(sku='"a\\u0085b"'),
    "sku line separator": _item(sku='"a\\u2028b"'),
    "sku turned": _item(sku='"a\\u202eb"'),
    "line1 isolated": _start(address='{"line1": "1 Main\\u2066 St"}'),
    "price underscore": _item(sku='"a"', price='"1_000"'),
    "price full-width": _item(sku='"a"', price='"\\uff11\\uff12"'),
    "price Arabic": _item(sku='"a"', price='"\\u0663"'),
    "field surrogate": _item(**{"sku": '"a"', "\\ud800": "1"}),
    "address text": _start(address='"1 Main St"'),
    "address empty": _start(address="{}"),
    "address number": _start(address='{"line1": 5}'),
    "address deep": _start(address='{"address": {"address": {"line1": "x"}}}'),
    "line1 NUL": _start(address='{"line1": "\\u0000"}'),
    "deep list": b"[" * 30000,
    "deep object": b'{"a":' * 10000 + b"1" + b"}" * 10000,
    "deep items": _start(items="[" * 20000 + "]" * 20000),
    "UTF-16": '{"payment_id": "hostile-pay"}'.encode("utf-16"),
    "Latin-1": '{"payment_id": "hostile-pay", "items": [{"sku": "é"}]}'.encode("latin-1"),
    "BOM": b"\xef\xbb\xbf" + b'{"payment_id": "hostile-pay"}',
    "overlong UTF-8": b'{"payment_id": "\xc0\xaf"}',
    "raw bytes": bytes(range(256)),
}


def assert_problem(answer: httpx.Response, *codes: int, name: str = "") -> None:
    assert answer.status_code in codes, (name, answer.status_code, answer.text[:300])
    assert answer.headers["content-type"] == "application/json"
    problem = answer.json()
    assert problem.keys() == {"error", "message"}, problem
    assert problem["message"].endswith("."), problem
    assert len(problem["message"]) < 400
    assert "Traceback" not in problem["message"]


async def counts(house: House) -> tuple[Any, ...]:
    """What a hostile start would have left behind; orders of other tests may still be on their way."""
    orders = await house.one("SELECT count(*) FROM orders WHERE id ~ 'hostile'")
    payments = await house.one("SELECT count(*) FROM payments WHERE payment_id ~ 'hostile'")
    workflows = await house.desk.client.count_workflows("WorkflowId = 'order-hostile'")
    return orders, payments, workflows.count


async def test_no_hostile_body_starts_anything(house: House, api: Api) -> None:
    """NaN, huge numbers, deep JSON, wrong encodings, control characters: 422, one sentence, nothing changed."""
    before = await counts(house)
    for name, content in HOSTILE_BODIES.items():
        assert_problem(await api.http.post("/orders/hostile/start", content=content), 422, name=name)
    assert await counts(house) == before


async def test_hostile_bodies_do_not_steer_an_order(house: House, api: Api) -> None:
    """The same bodies as reasons, addresses and approvals: refused, and the order waits on."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    before = await house.events(order)
    for name, content in HOSTILE_BODIES.items():
        if name == "empty":
            continue
        for path in ("signals/cancel", "signals/approve", "address", "signals/update-address"):
            if (name, path) in {
                ("null", "signals/cancel"),
                ("null", "signals/approve"),
                ("no payment", "signals/cancel"),
                ("no payment", "signals/approve"),
            }:
                continue  # no body and {} are what these two take  # fmt: skip
            assert_problem(await api.http.post(f"/orders/{order.order_id}/{path}", content=content), 422)
    assert await house.events(order) == before


HOSTILE_IDS = ["'%20OR%201=1--", "..", "%2e%2e%2fetc", "a%00b", "-a", "a" * 65, "%F0%9F%92%A9", "a%0Ab", "%ff", "a%20b"]


async def test_hostile_ids_and_paths_are_refused(house: House, api: Api) -> None:
    """SQL in ids, path tricks, NUL, other alphabets: 404 or 422 with a sentence, raw on the wire."""
    before = await counts(house)
    host, port = api.address.removeprefix("http://").split(":")
    for id_ in HOSTILE_IDS:
        for method, path in [("GET", "status"), ("GET", "events"), ("POST", "start"), ("POST", "signals/cancel")]:
            content = b'{"payment_id": "hostile-pay"}' if path == "start" else b""
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(
                f"{method} /orders/{id_}/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                f"Content-Length: {len(content)}\r\n\r\n".encode()
                + content
            )
            head, _, text = (await reader.read()).partition(b"\r\n\r\n")
            writer.close()
            await writer.wait_closed()
            code = int(head.split()[1])
            assert_problem(httpx.Response(code, content=text, headers={"content-type": "application/json"}), 404, 422)
    assert await counts(house) == before


def _cursor(id_: str) -> str:
    """As the API itself would write it."""
    return base64.urlsafe_b64encode(f"2026-01-01T00:00:00+00:00 {id_}".encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/", 404), ("GET", "/orders/", 404), ("GET", "/../etc/passwd", 404), ("DELETE", "/orders", 405),
        ("PUT", "/orders/a/start", 405), ("GET", "/orders/a/start", 405), ("POST", "/orders/a/status", 405),
        ("POST", "/orders/a/signals/ship", 404), ("GET", "/orders?limit=0", 422), ("GET", "/orders?limit=x", 422),
        ("GET", "/orders?limit=" + "9" * 5000, 422), ("GET", "/orders?limit=1001", 422),
        ("GET", "/orders?limit=nan", 422), ("GET", "/orders?state=LOST", 422), ("GET", "/orders?state=%00", 422),
        ("GET", "/orders?state=" + "A" * 3000, 422), ("GET", "/orders?after=x", 422), ("GET", "/orders?after=%00", 422),
        ("GET", "/orders?after=%ff%fe", 422), ("GET", f"/orders?after={_cursor('a' + chr(0))}", 422),
        ("GET", f"/orders?after={_cursor('a b')}", 422), ("GET", f"/orders?after={_cursor('')}", 422),
    ],
)  # fmt: skip
async def test_wrong_paths_methods_and_parameters_have_one_shape(api: Api, method: str, path: str, code: int) -> None:
    """Whatever says no says it in the same JSON."""
    assert_problem(await api.http.request(method, path), code)


async def test_a_large_body_is_413(house: House, api: Api) -> None:
    """Beyond 64 KiB, announced or in chunks; just below it is read and judged."""
    large = b'{"payment_id": "' + b"a" * (64 * 1024) + b'"}'

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(70):
            yield b" " * 1024

    assert_problem(await api.http.post("/orders/hostile/start", content=large), 413)
    assert_problem(await api.http.post("/orders/hostile/start", content=chunks()), 413)
    fits = b'{"payment_id": "' + b"a" * (64 * 1024 - 18) + b'"}'
    assert len(fits) == 64 * 1024
    assert_problem(await api.http.post("/orders/hostile/start", content=fits), 422)


async def test_a_body_that_does_not_come_is_not_waited_for(api: Api) -> None:
    """A client that announces a body and sends none gets 408, and its place is free again."""
    host, port = api.address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /orders/hostile/start HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
    head = await asyncio.wait_for(reader.readline(), 30)
    writer.close()
    await writer.wait_closed()
    assert int(head.split()[1]) == 408


async def test_half_a_request_is_none(house: House, api: Api) -> None:
    """A client that hangs up within its body has cancelled nothing and started nothing, however whole it looks."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    other = house.order()
    host, port = api.address.removeprefix("http://").split(":")
    for path, head, sent in [
        (f"{order.order_id}/signals/cancel", b"Content-Length: 40", b""),
        (f"{order.order_id}/signals/cancel", b"Content-Length: 40", b"{}"),
        (f"{order.order_id}/signals/cancel", b"Transfer-Encoding: chunked", b"2\r\n{}\r\n"),
        (f"{other.order_id}/start", b"Content-Length: 4000", json.dumps({"payment_id": other.payment_id}).encode()),
    ]:
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"POST /orders/{path} HTTP/1.1\r\nHost: x\r\n".encode() + head + b"\r\n\r\n" + sent)
        await writer.drain()
        # The server has read what there is: another request was answered meanwhile.
        assert (await api.http.get("/health")).status_code == 200
        writer.close()
        await writer.wait_closed()
    assert (await api.post(f"/orders/{order.order_id}/signals/approve")).status_code == 202
    await house.ends(order, State.COMPLETED)
    assert "ORDER_CANCELLED" not in await house.events(order)
    assert await describe(house.desk.client, workflow_id(other.order_id)) is None
    assert (await api.http.get(f"/orders/{other.order_id}/status")).status_code == 404


async def test_whoever_sends_no_body_keeps_nobody_out(idle_desk: Desk) -> None:
    """A place is taken once the body has arrived: idle clients hold none."""
    app = create(idle_desk, inside=1)
    arrived, enough = asyncio.Event(), asyncio.Event()

    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        arrived.set()
        await enough.wait()

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as http:
        idle = asyncio.create_task(http.post("/orders/hostile/start", content=never()))
        await arrived.wait()
        assert (await http.get("/orders")).status_code == 200
        enough.set()
        assert_problem(await idle, 422)


STRANGERS: list[dict[str, str]] = [
    {"Host": "evil.example"},
    {"Host": "evil.example:8000"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "localhost."},
    {"Host": "[::1"},
    {"Origin": "http://evil.example"},
    {"Origin": "http://localhost:1"},
    {"Origin": "null"},
    {"Origin": "http://evil.example", "Host": "evil.example"},
]


@pytest.mark.parametrize("headers", STRANGERS)
async def test_a_page_of_another_site_steers_nothing(house: House, api: Api, headers: dict[str, str]) -> None:
    """Its browser sends simple requests to loopback, or has its own name resolve there: 403, and the order waits on."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    path = f"/orders/{order.order_id}/signals/cancel"
    assert_problem(await api.http.post(path, headers=headers | {"Content-Type": "text/plain"}), 403)
    assert_problem(await api.http.get("/orders", headers=headers), 403)
    assert await house.events(order) == ["ORDER_RECEIVED", "ORDER_VALIDATED", "AWAITING_APPROVAL"]
    assert (await api.http.get("/health", headers=headers)).status_code == 200


async def test_pages_of_ones_own_and_programs_are_answered(api: Api) -> None:
    """An IP address, localhost, a name of a container network; with its own origin or with none."""
    for host in ("127.0.0.1:8000", "10.1.2.3", "[::1]:8000", "localhost:8000", "LOCALHOST", "api:8000"):
        for more in ({}, {"Origin": f"http://{host.lower()}"}):
            answer = await api.http.get("/orders", headers={"Host": host} | more)
            assert answer.status_code == 200, (host, more)


async def test_after_a_restart_of_the_database_no_request_fails(running: stack.Stack, settings: Settings) -> None:
    """All of the API's connections are cut, as a restart does it; the requests that come next do not notice."""
    async with await psycopg.AsyncConnection.connect(running.database_url, autocommit=True) as admin:
        await admin.execute("DROP ROLE IF EXISTS restarted")
        # By a name of its own, so that the connections of other tests are left alone.
        await admin.execute("CREATE ROLE restarted LOGIN SUPERUSER")
        info = psycopg.conninfo.conninfo_to_dict(running.database_url)
        url = psycopg.conninfo.make_conninfo(**{**info, "user": "restarted"})  # type: ignore[arg-type]
        async with serving(settings, DATABASE_URL=url) as api:
            for _ in range(2):
                answers = await asyncio.gather(*(api.http.get("/orders") for _ in range(20)))
                assert {answer.status_code for answer in answers} == {200}
                cursor = await admin.execute(
                    "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE usename = 'restarted'"
                )
                cut = await cursor.fetchone()
                assert cut is not None
                assert cut[0] > 0
            answers = [await api.http.get("/orders") for _ in range(10)]
            assert [answer.status_code for answer in answers] == [200] * 10, [answer.text for answer in answers][:2]
        await admin.execute("DROP ROLE restarted")


async def test_only_a_pool_that_was_asked_to_checks_its_connections(running: stack.Stack) -> None:
    """A round trip that the workers need not pay: their steps are tried again anyway."""
    for checked in (True, False):
        pool = await open_pool(running.database_url, size=1, checked=checked)
        try:
            async with pool.connection() as connection:
                pid = connection.info.backend_pid
            async with await psycopg.AsyncConnection.connect(running.database_url, autocommit=True) as admin:
                await admin.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
            if checked:
                await Ledger(pool).ping()
            else:
                with pytest.raises(DatabaseUnavailable):
                    await Ledger(pool).ping()
        finally:
            await pool.close()


async def test_what_postgres_cannot_hold_is_the_senders_mistake(idle_desk: Desk) -> None:
    """Should anything pass the model that the ledger cannot take, it is bad input and no failure of a server."""
    with pytest.raises(BadInput, match="Postgres cannot hold"):
        await idle_desk.ledger.order("a\0b")


async def test_a_setting_that_turned_bad_has_its_sentence(idle_desk: Desk, settings: Settings) -> None:
    """A start under a policy that does not exist says which, in the one shape."""
    bad = settings.model_copy(update={"policy": "swfit"})
    app = create(Desk(idle_desk.client, idle_desk.ledger, bad, search_attributes=False))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as http:
        answer = await http.post("/orders/hostile/start", json={"payment_id": "hostile-pay"})
    assert_problem(answer, 503)
    assert (answer.json()["error"], "swfit" in answer.json()["message"]) == ("misconfigured", True)


async def test_an_order_that_died_unreceived_says_so(house: House, api: Api) -> None:
    """Terminated before its row was written: nothing can be asked of it any more, and the reason says what to do."""
    await house.faults("receive: hang*")
    order = await house.start(tuned(preset("swift"), try_timeout=10))
    path = f"/orders/{order.order_id}"
    before = (await api.http.get(f"{path}/status")).json()
    assert (before["can_cancel"], before["last_error"]) == (True, None)
    workflow = house.desk.client.get_workflow_handle(workflow_id(order.order_id))
    await workflow.terminate("planted")
    status = (await api.http.get(f"{path}/status")).json()
    assert (status["state"], status["step"], status["can_cancel"], status["can_update_address"]) == (
        "ORDER_RECEIVED", None, False, False,
    )  # fmt: skip
    why = "its workflow closed as TERMINATED before it was received; `trellis reconcile --apply` ends it"
    assert (status["last_error"], status["workflow"]["late"]) == (why, False)
    answer = await api.post(f"{path}/signals/approve")
    assert_problem(answer, 409)
    assert answer.json() == {"error": "refused", "message": f"Order {order.order_id} refused approve: {why}."}


async def test_what_a_closed_workflow_cannot_do_is_not_offered(house: House, api: Api) -> None:
    """Terminated in its review: until reconcile has ended it, nothing can be cancelled or moved."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    await house.desk.client.get_workflow_handle(workflow_id(order.order_id)).terminate("planted")
    status = await house.desk.status(order.order_id)
    assert (status["state"], status["can_cancel"], status["can_update_address"]) == ("AWAITING_APPROVAL", False, False)


async def test_a_refusal_gives_its_reason_alone(house: House, api: Api) -> None:
    """What the workflow's validator says is the sentence, without Temporal's name for the kind of failure."""
    await house.faults("prepare: hang*; refund: hang*")
    order = await house.start(approve=True)
    await house.until(order, "prepare:ATTEMPT_TIMED_OUT")
    assert (await api.post(f"/orders/{order.order_id}/signals/cancel")).status_code == 202
    answer = await api.post(f"/orders/{order.order_id}/signals/approve")
    assert_problem(answer, 409)
    assert answer.json()["message"] == f"Order {order.order_id} refused approve: the order is ending as CANCELLED."
    await house.faults("calm")
    await house.ends(order, State.CANCELLED)


async def test_health_and_documents(house: House, api: Api) -> None:
    """Health names both servers; the documents need no other machine, and every example in them is taken."""
    health = await api.http.get("/health")
    assert (health.status_code, health.json()) == (200, {"ok": True, "temporal": True, "database": True})
    docs = (await api.http.get("/docs")).text
    document = (await api.http.get("/openapi.json")).json()
    assert all(path in docs for path in document["paths"])
    assert "http:" not in docs
    assert "https:" not in docs
    forms = document["paths"]["/orders/{order_id}/start"]["post"]["requestBody"]["content"]["application/json"]
    for example in forms["examples"].values():
        order = house.order()
        answer = await api.post(f"/orders/{order.order_id}/start", example["value"] | {"payment_id": order.payment_id})
        assert answer.status_code == 201


def test_the_document_and_the_model_know_the_same_text() -> None:
    """Every character of the basic plane is allowed by both or by neither, alone and between others."""
    fields = START["properties"]["items"]["items"]["anyOf"][0]["properties"]
    text, price = re.compile(fields["sku"]["pattern"]), re.compile(fields["price"]["anyOf"][1]["pattern"])

    def taken(sku: str, price: str = "1") -> bool:
        try:
            parse_start("a", {"payment_id": "p", "items": [{"sku": sku, "price": price}]})
        except BadInput:
            return False
        return True

    for char in (chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000):
        assert bool(text.search(f"a{char}b")) == taken(f"a{char}b"), hex(ord(char))
        assert bool(text.search(char)) <= taken(char), hex(ord(char))
        assert bool(price.search(f"1{char}")) <= taken("a", f"1{char}"), hex(ord(char))
    for fair in ("Straße 1, 東京", "שלום\u200f 5", "👩\u200d🚀", "a\u00a0b", 'O\'Neil & "Sons"'):
        assert text.search(fair)
        assert taken(fair)


# Schemathesis itself draws from `random` when it makes bad data; its cases need not be repeatable here.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
async def test_the_document_is_kept(house: House, api: Api) -> None:
    """Schemathesis, over the OpenAPI document: no 500, and only the answers and shapes that the document names."""
    schema = schemathesis.openapi.from_url(f"{api.address}/openapi.json")

    def fuzz() -> Counter[int]:
        seen: Counter[int] = Counter()
        for result in schema.get_all_operations():
            operation = result.ok()
            for mode in schemathesis.GenerationMode:
                if operation.path == "/health" and mode is schemathesis.GenerationMode.NEGATIVE:
                    continue  # it takes nothing that could be wrong

                @given(case=operation.as_strategy(generation_mode=mode))
                @how(
                    max_examples=12,
                    deadline=None,
                    database=None,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )
                def one(case: schemathesis.Case) -> None:
                    response = case.call_and_validate(
                        checks=[
                            not_a_server_error,
                            status_code_conformance,
                            content_type_conformance,
                            response_schema_conformance,
                            unsupported_method,
                        ],
                        timeout=30,
                    )
                    seen[response.status_code] += 1

                one()
        return seen

    seen = await asyncio.to_thread(fuzz)
    assert {200, 201, 422} <= seen.keys(), seen


async def test_fifty_starts_of_one_id_are_one_run(house: House, api: Api) -> None:
    """Exactly one answers 201; all name one run; Temporal and the ledger know one order."""
    order = house.order()
    path = f"/orders/{order.order_id}/start"
    answers = await asyncio.gather(*(api.post(path, body_of(order)) for _ in range(50)))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: 49}
    assert len({answer.json()["run_id"] for answer in answers}) == 1
    await house.until(order, "AWAITING_APPROVAL")
    assert (
        await house.one("SELECT count(*) FROM events WHERE order_id = %s AND type = 'ORDER_RECEIVED'", order.order_id)
        == 1
    )


async def test_fifty_cancels_cancel_once(house: House, api: Api) -> None:
    """Each has an answer, at least one is taken, and the log holds one cancellation."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    path = f"/orders/{order.order_id}/signals/cancel"
    answers = await asyncio.gather(*(api.post(path, {"reason": f"number {n}"}) for n in range(50)))
    codes = Counter(answer.status_code for answer in answers)
    assert codes.keys() <= {202, 409}
    assert codes[202] >= 1
    await house.ends(order, State.CANCELLED)
    assert (await house.events(order)).count("ORDER_CANCELLED") == 1


async def test_without_workers_requests_are_pending_and_status_answers(
    idle_desk: Desk, pool: Pool, settings: Settings
) -> None:
    """On queues that nobody polls: status says ORDER_RECEIVED, approve is pending; a worker that comes judges it."""
    queues = {"ORDERS_TASK_QUEUE": "idle-orders", "SHIPPING_TASK_QUEUE": "idle-shipping"}
    aside = settings.model_copy(update={"orders_queue": "idle-orders", "shipping_queue": "idle-shipping"})
    async with serving(settings, **queues) as api:
        path = "/orders/idle-1"
        assert (await api.post(f"{path}/start", {"payment_id": "idle-pay-1"})).status_code == 201
        status = await api.http.get(f"{path}/status")
        assert status.status_code == 200
        assert (status.json()["state"], status.json()["workflow"]["close_status"]) == ("ORDER_RECEIVED", "RUNNING")
        assert (await api.http.get(f"{path}/events")).json() == {"events": []}
        approved = await api.post(f"{path}/signals/approve")
        assert (approved.status_code, approved.json()["verdict"]) == (202, "pending")
        assert (await api.post(f"{path}/start", {"payment_id": "idle-pay-1"})).status_code == 200
        async with working(idle_desk.client, pool, aside):
            done = await until_listed(api, "idle-1", "COMPLETED")
    assert done["payment"]["status"] == "CHARGED"


async def test_what_temporal_does_not_say_in_time_is_read_off_the_ledger(house: House) -> None:
    """A status that waits for nobody knows the step and the end of the review, and says that Temporal was late."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    heard, late = [await house.desk.status(order.order_id, patience=patience) for patience in (10, 0)]
    assert (heard["workflow"]["late"], late["workflow"]["late"]) == (False, True)
    assert (heard["step"], late["step"]) == ("review", "review")
    assert late["can_cancel"] is True
    assert abs(late["seconds_left"] - heard["seconds_left"]) < 2
    await house.desk.approve(order.order_id)
    await house.ends(order, State.COMPLETED)
    done = await house.desk.status(order.order_id, patience=0)
    assert (done["state"], done["step"], done["review_deadline"]) == (State.COMPLETED, None, None)


async def test_without_its_servers_it_says_503_and_recovers(settings: Settings) -> None:
    """Both servers go: 503 with Retry-After on every path, health says who is missing; they return, and so does it."""
    home = Path(tempfile.mkdtemp(prefix="trellis-api-"))
    mine = settings.model_copy(update={"home": home})
    try:
        await migrate((await stack.up(mine)).database_url)
        async with serving(mine) as api:
            assert (await api.post("/orders/a/start", {"payment_id": "p"})).status_code == 201
            await asyncio.to_thread(stack.down, mine)
            health = await api.http.get("/health")
            assert (health.status_code, health.json()) == (503, {"ok": False, "temporal": False, "database": False})
            for answer in await asyncio.gather(
                api.post("/orders/b/start", {"payment_id": "q"}),
                api.http.get("/orders/a/status"),
                api.http.get("/orders"),
                api.post("/orders/a/signals/cancel", {}),
            ):
                assert_problem(answer, 503)
                assert answer.headers["retry-after"] == "1"
            await stack.up(mine)
            async with asyncio.timeout(30):
                while (await api.http.get("/health")).status_code != 200:
                    await asyncio.sleep(0.2)
            async with asyncio.timeout(30):
                while (await api.post("/orders/a/start", {"payment_id": "p"})).status_code != 200:
                    await asyncio.sleep(0.2)
            assert (await api.post("/orders/b/start", {"payment_id": "q"})).status_code == 201
    finally:
        stack.down(mine)
        shutil.rmtree(home, ignore_errors=True)


async def test_an_api_killed_between_accept_and_start_loses_and_doubles_nothing(
    house: House, settings: Settings, running: stack.Stack
) -> None:
    """SIGKILL while a start waits for the ledger: nothing runs; the same body to the next API starts it, once."""
    order = house.order()
    path = f"/orders/{order.order_id}/start"
    async with serving(settings) as api:
        # A lock of ours stops the start after it was accepted and before Temporal hears of it.
        async with await psycopg.AsyncConnection.connect(running.database_url) as lock:
            await lock.execute("LOCK TABLE payments IN ACCESS EXCLUSIVE MODE")
            asked = asyncio.create_task(api.post(path, body_of(order)))
            waiting = (
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%%payments%%'"
            )
            async with asyncio.timeout(20):
                while not await house.one(waiting):
                    await asyncio.sleep(0.02)
            api.process.send_signal(signal.SIGKILL)
            with pytest.raises(httpx.TransportError):
                await asked
            await api.process.wait()
            await lock.rollback()
    assert await describe(house.desk.client, workflow_id(order.order_id)) is None
    async with serving(settings) as api:
        first, second = [await api.post(path, body_of(order)) for _ in range(2)]
        assert (first.status_code, second.status_code) == (201, 200)
        assert first.json() == second.json()
    # And killed after the start, before its answer: the same body finds the run that there is.
    other = house.order()
    started = await house.desk.start(other)
    async with serving(settings) as api:
        found = await api.post(f"/orders/{other.order_id}/start", body_of(other))
        assert (found.status_code, found.json()["run_id"]) == (200, started.run_id)


async def test_a_token_that_is_set_is_demanded(running: stack.Stack, settings: Settings) -> None:
    """401 without it or with another; health and the documents stay open, for watchers and browsers."""
    async with serving(settings, "--host", "0.0.0.0", "--port", "0", TRELLIS_API_TOKEN="s3cret") as api:
        base = f"http://127.0.0.1:{api.address.rsplit(':', 1)[1]}"
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "s3cret"},
            {"authorization": "Basic s3cret"},
            {"authorization": "Bearer é"},
        ):
            encoded = {name: value.encode() for name, value in headers.items()}
            assert_problem(await api.http.get(f"{base}/orders", headers=encoded), 401)
        for scheme in ("Bearer", "bearer", "BEARER"):
            # Whoever knows the token may come by any name: a page of another site does not.
            right = {"authorization": f"{scheme} s3cret", "host": "trellis.example"}
            assert (await api.http.get(f"{base}/orders", headers=right)).status_code == 200
        for path in ("health", "docs", "openapi.json"):
            assert (await api.http.get(f"{base}/{path}")).status_code == 200


@pytest.mark.parametrize(
    ("words", "environment", "sentence"),
    [
        (["--host", "0.0.0.0", "--port", "0"], {}, "TRELLIS_API_TOKEN"),
        (["--host", "::", "--port", "0"], {}, "TRELLIS_API_TOKEN"),
        (["--host", "no.such.host.invalid", "--port", "0"], {}, "no address"),
        (["--port", "0"], {"TRELLIS_POLICY": "swfit"}, "no policy 'swfit'"),
        (["--port", "0"], {"WORKFLOW_RUN_TIMEOUT_SECONDS": "1"}, "run_timeout must be longer than"),
        (["--port", "0"], {"TRELLIS_FAULTS": "nonsense"}, "The fault plan 'nonsense'"),
        (["--port", "0"], {"TEMPORAL_NAMESPACE": "nowhere"}, "no namespace 'nowhere'"),
        (["--port", "0"], {"DATABASE_URL": "postgresql://x@127.0.0.1:1/x"}, "Postgres does not answer"),
        (["--port", "0"], {"TEMPORAL_ADDRESS": "127.0.0.1:1"}, "Temporal at 127.0.0.1:1 does not answer"),
    ],
)
async def test_what_cannot_serve_says_why_at_start(
    running: stack.Stack, settings: Settings, words: list[str], environment: dict[str, str], sentence: str
) -> None:
    """One sentence, exit code 1, and nothing that listens."""
    process = await command(settings, *words, **environment)
    out, err = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode == 1
    assert sentence in err.decode()
    assert b"Traceback" not in err
    assert out == b""


async def test_a_port_in_use_is_named(running: stack.Stack, settings: Settings) -> None:
    """The port's number is in the sentence."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = await command(settings, "--port", port)
        _, err = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode == 1
    assert f"127.0.0.1:{port}" in err.decode()
    assert b"--port" in err


@pytest.mark.parametrize(("change", "sentence"), [("+ 1", "newer"), ("- 1", "trellis migrate")])
async def test_another_schema_is_refused_at_start(
    running: stack.Stack, settings: Settings, change: str, sentence: str
) -> None:
    """A ledger that is older or newer than the code gets a sentence, in a database of its own."""
    name = "other_schema"
    async with await psycopg.AsyncConnection.connect(running.database_url, autocommit=True) as connection:
        await connection.execute(f"DROP DATABASE IF EXISTS {name}".encode())
        await connection.execute(f"CREATE DATABASE {name}".encode())
        newest = await (await connection.execute("SELECT max(number) FROM trellis_migrations")).fetchone()
        assert newest is not None
        info = psycopg.conninfo.conninfo_to_dict(running.database_url)
        url = psycopg.conninfo.make_conninfo(**{**info, "dbname": name})  # type: ignore[arg-type]
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as other:
            await other.execute("CREATE TABLE trellis_migrations (number int)")
            await other.execute(f"INSERT INTO trellis_migrations VALUES ({newest[0]} {change})".encode())
        process = await command(settings, "--port", "0", DATABASE_URL=url)
        _, err = await asyncio.wait_for(process.communicate(), 40)
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
    assert process.returncode == 1
    assert sentence in err.decode()


async def test_beyond_what_it_can_take_it_says_so(idle_desk: Desk, pool: Pool) -> None:
    """With all places taken the next request has 503 and Retry-After at once; health answers; then all is well."""
    app = create(idle_desk, inside=4)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as http:
        async with pool.connection() as lock, lock.transaction():
            await lock.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
            inside = [asyncio.create_task(http.get("/orders")) for _ in range(4)]
            await asyncio.sleep(0)
            answers: list[httpx.Response] = []
            async with asyncio.timeout(5):
                while not answers or answers[-1].status_code != 503:
                    answers.append(await asyncio.wait_for(http.get("/orders"), 4))
            assert_problem(answers[-1], 503)
            assert answers[-1].headers["retry-after"] == "1"
            assert (await http.get("/health")).status_code == 200
        assert [answer.status_code for answer in await asyncio.gather(*inside)] == [200] * 4
        assert (await http.get("/orders")).status_code == 200


async def test_it_ends_in_order(running: stack.Stack, settings: Settings) -> None:
    """SIGTERM lets a request under way have its answer, then the process exits with 0 and its port is free."""
    async with serving(settings) as api:
        async with await psycopg.AsyncConnection.connect(running.database_url) as lock:
            await lock.execute("LOCK TABLE shipments IN ACCESS EXCLUSIVE MODE")
            asked = asyncio.create_task(api.http.get("/orders/nobody/status"))
            async with asyncio.timeout(20):
                while True:
                    cursor = await lock.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
                    if (await cursor.fetchone()) != (0,):
                        break
                    await asyncio.sleep(0.02)
            api.process.terminate()
            await asyncio.sleep(0.1)
            await lock.rollback()
            assert (await asked).status_code == 404
        assert await asyncio.wait_for(api.process.wait(), 20) == 0
        port = int(api.address.rsplit(":", 1)[1])
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_the_document_names_one_error_shape(idle_desk: Desk) -> None:
    """Every refusal in the OpenAPI document is a Problem, and every body has an example."""
    document = create(idle_desk).openapi()
    # A 503 after a timeout may have reached Temporal: no promise that nothing happened.
    assert "may have been carried out" in document["components"]["schemas"]["Problem"]["description"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for code, answer in operation["responses"].items():
                if int(code) >= 400 and path != "/health":
                    shape = json.dumps(answer["content"]["application/json"]["schema"])
                    assert "Problem" in shape, (method, path, code)
            if method == "post":
                assert operation["requestBody"]["content"]["application/json"]["examples"]
