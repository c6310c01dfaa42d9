"""The compose file, tested without a container engine: every reference is checked, every service of Trellis is run."""

from __future__ import annotations

import asyncio
import fnmatch
import os
import re
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml
from dotenv import dotenv_values

from trellis import stack
from trellis.config import variable_names

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
SAMPLE = dotenv_values(ROOT / ".env.sample")
REFERENCE = re.compile(r"\$\{(\w+):-([^}]*)\}")


PASSWORD = "p@ss/w:rd?%41"


def filled(text: str) -> str:
    """With `.env.sample` as `.env`, as compose would read it, but for a password that would break a URL."""
    values = SAMPLE | {"POSTGRES_PASSWORD": PASSWORD}
    return REFERENCE.sub(lambda found: values.get(found[1]) or found[2], text)


def test_the_services_are_the_promised_ones() -> None:
    """Two servers, API, two workers, lab, adminer, the migration that runs by itself, and the tests on demand."""
    assert SERVICES.keys() == {
        "db", "temporal", "migrate", "api", "order-worker", "shipping-worker", "lab", "adminer", "test"
    }  # fmt: skip
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["test"], "all others start by `up`"


@pytest.mark.parametrize("name", SERVICES)
def test_every_reference_of_a_service_leads_somewhere(name: str) -> None:
    """Pinned image, known settings, loopback ports, declared volumes, dependencies that can become ready."""
    service = SERVICES[name]
    assert re.fullmatch(r"[a-z-]+:\d+\.\d+[\w.-]*", service["image"]), "a tag that moves is no tag"
    if name in OURS:
        assert service["build"] in (".", {"context": ".", "target": "test"})
        assert service.get("environment", {}).keys() <= variable_names() | {"PGPASSWORD"}
        assert service["command"][0] in ("trellis", "temporal", "jupyter", "python")
    for variable, _ in REFERENCE.findall(yaml.safe_dump(service)):
        assert variable in SAMPLE, variable
    for port in service.get("ports", []):
        address, outside, inside = port.split(":")
        assert (address, outside) == ("127.0.0.1", inside)
        if name in OURS:
            assert any(inside in re.findall(r"\d+", word) for word in service["command"]), port
    for volume in service.get("volumes", []):
        assert volume.split(":")[0] in COMPOSE["volumes"]
    for other, how in service.get("depends_on", {}).items():
        condition = how["condition"]
        assert condition in ("service_healthy", "service_completed_successfully")
        if condition == "service_healthy":
            assert "healthcheck" in SERVICES[other], f"{name} would wait for {other} for ever"
        else:
            assert SERVICES[other]["restart"] == "no"
    for address in re.findall(r"(?:@|\b)([a-z]+):(?:7233|5432)", yaml.safe_dump(service.get("environment", {}))):
        assert address in SERVICES
        assert address in service["depends_on"] or "migrate" in service["depends_on"] or name == "migrate"


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_that_stays_says_how_it_is(name: str) -> None:
    """Each such service has a health check, limited in time, on its own port. A service that runs once needs none."""
    service = SERVICES[name]
    if service["restart"] == "no":
        assert "healthcheck" not in service, "what has ended well is neither healthy nor unhealthy"
        return
    check = service["healthcheck"]
    assert check.keys() == {"test", "interval", "timeout", "retries"}
    assert check["test"][0] == "CMD"
    inside = [port.split(":")[2] for port in service.get("ports", [])]
    for port in re.findall(r"127\.0\.0\.1:(\d+)", " ".join(check["test"])):
        assert port in inside
    if service.get("command", [])[:2] == ["trellis", "worker"]:
        assert check["test"][1:] == [*service["command"], "--check"]


def test_the_sample_names_only_what_is_read() -> None:
    """Each line of `.env.sample` is a setting, or is used by the compose file."""
    used = {name for name, _ in REFERENCE.findall((ROOT / "docker-compose.yml").read_text("utf-8"))}
    assert SAMPLE.keys() == used
    assert SAMPLE.keys() - variable_names() == {"POSTGRES_PASSWORD"}


def test_the_image_copies_what_exists_and_runs_without_root() -> None:
    """Every COPY source exists and passes .dockerignore; bases are pinned; the last user is not root."""
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")]
    stages = [line.split() for line in DOCKERFILE if line.startswith("FROM ")]
    named = {words[3] for words in stages if len(words) > 2}
    assert all(words[1] in named or re.search(r":\d+\.\d+\.\d+", words[1]) for words in stages)
    for line in DOCKERFILE:
        if not line.startswith("COPY "):
            continue
        words = line.split()[1:]
        origin = next((word for word in words if word.startswith("--from=")), None)
        if origin is not None:
            assert origin.removeprefix("--from=") in named
            continue
        for source in [word for word in words if not word.startswith("--")][:-1]:
            assert (ROOT / source).exists(), source
            assert any(fnmatch.fnmatch(Path(source).name, pattern) for pattern in allowed), source
    users = [line.split()[1] for line in DOCKERFILE if line.startswith("USER ")]
    assert users
    assert users[-1] != "root"


def test_the_tests_have_an_image_with_all_that_they_read() -> None:
    """The stage that the service builds exists and is not the last one; each path of its command is copied into it."""
    service = SERVICES["test"]
    stages = [line.split()[3] for line in DOCKERFILE if line.startswith("FROM ") and " AS " in line]
    assert service["build"]["target"] in stages
    assert " AS " not in [line for line in DOCKERFILE if line.startswith("FROM ")][-1], "the default image is ours"
    paths = [word for word in service["command"] if word.startswith("tests/")]
    assert paths
    assert all((ROOT / path).is_dir() for path in paths)
    begin = DOCKERFILE.index("FROM build AS test")
    copied = " ".join(line for line in DOCKERFILE[begin:] if line.startswith("COPY ")).split()
    read = re.compile(r'ROOT / "([\w.-]+)"')
    named = {name for path in paths for file in (ROOT / path).rglob("*.py") for name in read.findall(file.read_text())}
    assert named <= {*copied, "trellis", "sql", "pyproject.toml", "requirements.lock", "README.md"}


async def test_the_service_of_the_tests_finds_them(tmp_path: Path) -> None:
    """Its command collects every test without an error, as a user without rights on the sources would run it."""
    words = [sys.executable, *SERVICES["test"]["command"][1:], "--collect-only", "-q"]
    process = await asyncio.create_subprocess_exec(
        *words, cwd=ROOT, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, out.decode()[-2000:]
    assert b"tests/integration/test_compose.py" in out


def test_the_locks_versions_serve_as_constraints() -> None:
    """The build turns the lock file into one pinned version a line, for every package that Trellis needs."""
    lines = [re.sub(r" *\\$", "", line) for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines()]
    pins = [line for line in lines if not re.match(r"^ *--hash", line)]
    assert any("s/ *\\\\$//; /^ *--hash/d" in line for line in DOCKERFILE)
    assert all(re.match(r"^[a-z0-9._-]+(\[.*\])?==\S+( ; .+)?$", pin, flags=re.I) for pin in pins)
    project = (ROOT / "pyproject.toml").read_text("utf-8").split("dependencies = [")[1].split("\n]")[0]
    needed = re.findall(r'"([\w.-]+)', project)
    assert {name.lower() for name in needed} <= {re.split(r"[=\[]", pin)[0].lower() for pin in pins}


class Ground:
    """Where the services run here: compose's names and ports, mapped to this machine's."""

    def __init__(self, home: Path, database: str) -> None:
        self.home = home
        self._database = database
        self.ports = {port: _free() for port in ("7233", "8233", "8000", "8888")}

    def word(self, text: str) -> str:
        text = re.sub(r"^postgresql://\S+@db:5432/trellis$", lambda _: self._database, filled(text))
        text = text.replace("temporal:7233", "127.0.0.1:7233").replace("/data/", f"{self.home}/")
        return re.sub("|".join(self.ports), lambda found: str(self.ports[found[0]]), text)

    def command(self, name: str) -> list[str]:
        words = [self.word(word) for word in SERVICES[name]["command"]]
        if name in ("temporal", "lab"):
            # In its container it must listen on all addresses. Here that would open it to the network.
            words = [word.replace("0.0.0.0", "127.0.0.1") for word in words]
        if name == "lab" and os.geteuid() == 0:
            words.append("--allow-root")
        return words

    def environment(self, name: str) -> dict[str, str]:
        """The service's own variables, and of this machine's only PATH."""
        own = {key: self.word(str(value)) for key, value in SERVICES[name].get("environment", {}).items()}
        return own | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(self.home)}

    async def run(self, name: str, words: list[str]) -> int:
        process = await asyncio.create_subprocess_exec(*words, env=self.environment(name), cwd=self.home)
        return await asyncio.wait_for(process.wait(), 60)

    @asynccontextmanager
    async def service(self, name: str) -> AsyncIterator[None]:
        with (self.home / f"{name}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *self.command(name), env=self.environment(name), cwd=self.home, stdout=log, stderr=log
            )
        try:
            yield
            assert process.returncode is None, (self.home / f"{name}.log").read_text()[-2000:]
        finally:
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.wait(), 30)

    async def healthy(self, name: str) -> None:
        """Wait until its health command succeeds, at most for the time that the file gives it."""
        async with asyncio.timeout(60):
            while (await self.check(name))[0] != 0:
                await asyncio.sleep(0.2)

    async def check(self, name: str) -> tuple[int, str]:
        """The exit code of the service's own health command, and what it says of trouble."""
        words = [self.word(word) for word in SERVICES[name]["healthcheck"]["test"][1:]]
        process = await asyncio.create_subprocess_exec(
            *words, env=self.environment(name), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        _, printed = await process.communicate()
        return await process.wait(), printed.decode()


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def empty_database(running: stack.Stack) -> AsyncIterator[str]:
    """A database that nobody migrated, as the db service has one at its first start; it demands its user's password."""
    async with await psycopg.AsyncConnection.connect(running.database_url, autocommit=True) as connection:
        await connection.execute("DROP DATABASE IF EXISTS composed WITH (FORCE)")
        await connection.execute("DROP ROLE IF EXISTS composed")
        await connection.execute(f"CREATE ROLE composed LOGIN PASSWORD '{PASSWORD}'".encode())
        await connection.execute("CREATE DATABASE composed OWNER composed")
        info = psycopg.conninfo.conninfo_to_dict(running.database_url)
        url = psycopg.conninfo.make_conninfo(**{**info, "dbname": "composed", "user": "composed"})  # type: ignore[arg-type]
        found = await (await connection.execute("SHOW hba_file")).fetchone()
        assert found is not None
        rules = Path(found[0])
        before = rules.read_text("utf-8")
        rules.write_text(f"local composed composed scram-sha-256\n{before}", "utf-8")
        try:
            await connection.execute("SELECT pg_reload_conf()")
            await refused(url)
            yield url
        finally:
            rules.write_text(before, "utf-8")
            await connection.execute("SELECT pg_reload_conf()")
            await connection.execute("DROP DATABASE composed WITH (FORCE)")
            await connection.execute("DROP ROLE composed")


async def refused(url: str) -> None:
    """Return once a connection without a password is refused."""
    async with asyncio.timeout(20):
        while True:
            try:
                await (await psycopg.AsyncConnection.connect(url)).close()
            except psycopg.OperationalError as error:
                why = str(error)
                break
            await asyncio.sleep(0.05)
    assert "password" in why


async def test_the_services_run_an_order_over_http(empty_database: str, tmp_path: Path) -> None:
    """Each service of ours with exactly its command and environment, in the order of the file, to a COMPLETED order."""
    ground = Ground(tmp_path, empty_database)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    async with AsyncExitStack() as up:
        await up.enter_async_context(ground.service("temporal"))
        await ground.healthy("temporal")
        assert await ground.run("migrate", ground.command("migrate")) == 0
        for name, queue in (("order-worker", "orders-tq"), ("shipping-worker", "shipping-tq")):
            code, printed = await ground.check(name)
            assert (code, f"No worker on this machine has polled {queue}" in printed) == (1, True), printed
            await up.enter_async_context(ground.service(name))
            await ground.healthy(name)
        for name in ("api", "lab"):
            await up.enter_async_context(ground.service(name))
        await ground.healthy("api")
        http = await up.enter_async_context(
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{ground.ports['8000']}", timeout=20, trust_env=False)
        )
        started = await http.post("/orders/composed-1/start", json={"payment_id": "composed-pay-1"})
        assert started.status_code == 201, started.text
        approved = await http.post("/orders/composed-1/signals/approve")
        assert approved.status_code == 202
        async with asyncio.timeout(60):
            while (await http.get("/orders/composed-1/status")).json()["state"] != "COMPLETED":
                await asyncio.sleep(0.1)
        await ground.healthy("lab")
        # The notebooks read the ledger by another driver, which must find the password too.
        look = "from trellis import insight; assert len(insight.events(order='composed-1', driver='adbc')) > 5"
        assert await ground.run("lab", [sys.executable, "-c", look]) == 0
