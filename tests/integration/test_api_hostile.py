"""What no client should send: hostile bodies, ids, paths and headers, and incomplete requests."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.conftest import House
from tests.integration.http_api import Api, assert_problem
from trellis.api.app import create
from trellis.api.bodies import read_cursor
from trellis.desk import Desk
from trellis.errors import BadInput
from trellis.model import State, workflow_id
from trellis.temporal_calls import describe


@pytest.mark.parametrize("text", ["", "x", "====", "Zm9v", "A" * 500, "MjAyNg", "é", "2026-01-01T00:00:00+00:00 a"])
def test_a_cursor_of_ones_own_making_is_refused(text: str) -> None:
    """A cursor must come from an earlier answer."""
    with pytest.raises(BadInput, match="cursor"):
        read_cursor(text)


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
    "unknown field": _start(colour='"red"'),
    "policy nobody knows": _start(policy='"quick"'),
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
    """Every refusal has the same JSON shape."""
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


@pytest.mark.slow
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
    """A client that disconnects within its body starts and cancels nothing, even if the part that came is valid
    JSON."""
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
    """A request takes a place only after its body has arrived, so idle clients take none."""
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
    """The page makes a browser send simple requests to loopback, or points its own name there: 403, and the order waits
    on."""
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
