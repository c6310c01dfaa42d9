"""The API as a process: what it checks at start, what it survives, how it ends."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import tempfile
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.conftest import House
from tests.integration.http_api import assert_problem, body_of, command, serving
from trellis import stack
from trellis.api.app import create
from trellis.config import Settings
from trellis.db.ledger import Ledger
from trellis.db.migrate import migrate
from trellis.db.pool import Pool, open_pool
from trellis.desk import Desk
from trellis.errors import BadInput, DatabaseUnavailable
from trellis.model import workflow_id
from trellis.temporal_calls import describe

pytestmark = pytest.mark.slow


async def test_after_a_restart_of_the_database_no_request_fails(running: stack.Stack, settings: Settings) -> None:
    """All of the API's connections are cut, as by a restart. The next requests succeed."""
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
    """Workers do without the check and save a round trip, because their steps are tried again anyway."""
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
    """A value that passes the parsing and that the ledger cannot hold is bad input, not a failure of a server."""
    with pytest.raises(BadInput, match="Postgres cannot hold"):
        await idle_desk.ledger.order("a\0b")


async def test_a_setting_that_turned_bad_has_its_sentence(idle_desk: Desk, settings: Settings) -> None:
    """A start under a policy that does not exist names that policy, in the usual shape of an error."""
    bad = settings.model_copy(update={"policy": "swfit"})
    app = create(Desk(idle_desk.client, idle_desk.ledger, bad, search_attributes=False))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as http:
        answer = await http.post("/orders/hostile/start", json={"payment_id": "hostile-pay"})
    assert_problem(answer, 503)
    assert (answer.json()["error"], "swfit" in answer.json()["message"]) == ("misconfigured", True)


async def test_without_its_servers_it_says_503_and_recovers(settings: Settings) -> None:
    """Without both servers every path answers 503 with Retry-After, and health says which is missing. When they return,
    so does the API."""
    home = Path(tempfile.mkdtemp(prefix="trellis-api-"))
    own = settings.model_copy(update={"home": home})
    try:
        await migrate((await stack.up(own)).database_url)
        async with serving(own) as api:
            assert (await api.post("/orders/a/start", {"payment_id": "p"})).status_code == 201
            await asyncio.to_thread(stack.down, own)
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
            await stack.up(own)
            async with asyncio.timeout(30):
                while (await api.http.get("/health")).status_code != 200:
                    await asyncio.sleep(0.2)
            async with asyncio.timeout(30):
                while (await api.post("/orders/a/start", {"payment_id": "p"})).status_code != 200:
                    await asyncio.sleep(0.2)
            assert (await api.post("/orders/b/start", {"payment_id": "q"})).status_code == 201
    finally:
        stack.down(own)
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
        assert_problem(await api.http.get(f"{base}/orders"), 401)
        for wrong in ("Bearer wrong", "s3cret", "Basic s3cret", "Bearer é"):
            # As bytes: httpx itself would refuse what is not ASCII.
            headers = {b"authorization": wrong.encode()}
            assert_problem(await api.http.get(f"{base}/orders", headers=headers), 401)
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
        (["--port", "0"], {"WORKFLOW_RUN_TIMEOUT_SECONDS": "0.1"}, "Choose more than 0.25 s"),
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
            # The gate's refusal has no such body. On a busy machine a server may take longer than health waits.
            assert set((await http.get("/health")).json()) == {"ok", "temporal", "database"}
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
