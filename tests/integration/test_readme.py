"""What the README tells people to type, typed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.fixture
def environ() -> Iterator[dict[str, str]]:
    home = Path(tempfile.mkdtemp(prefix="trellis-readme-"))
    environ = {
        key: value for key, value in os.environ.items() if not key.startswith(("TRELLIS_", "TEMPORAL_", "DATABASE_"))
    }
    environ |= {"TRELLIS_HOME": str(home), "TRELLIS_FAULTS": "calm"}
    yield environ
    subprocess.run([BIN / "trellis", "down"], env=environ, cwd=ROOT, check=False, capture_output=True)
    shutil.rmtree(home, ignore_errors=True)


def lines(block: str) -> list[str]:
    return [line.split("  #")[0].rstrip() for line in block.splitlines() if line and not line.startswith("#")]


def recipe(target: str) -> list[str]:
    """What `make TARGET` runs, but for the set-up that every target begins with."""
    makefile = (ROOT / "Makefile").read_text()
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)*)", makefile, re.MULTILINE)
    assert found, f"the README names `make {target}`, the Makefile does not"
    return [line.strip().removeprefix("@").replace("$(BIN)", str(BIN)) for line in found[1].splitlines()]


def test_the_two_commands_exist() -> None:
    """`make lab` and `make test` are the first block, and real targets."""
    assert [shlex.split(line)[:2] for line in lines(BLOCKS[0])] == [["make", "lab"], ["make", "test"]]
    assert recipe("lab") == [f"{BIN}/trellis lab"]
    assert recipe("test") == [f"{BIN}/python -m pytest -n 2 --dist loadfile"]


def test_the_parts_by_hand_work_as_written(environ: dict[str, str]) -> None:
    """Every line of the block "By hand", in its order; `make workers` goes on beside the rest."""
    [block] = [block for block in BLOCKS if "order start" in block]
    commands: list[list[str]] = []
    for line in lines(block):
        words = shlex.split(line)
        if words[0] == "make":
            commands += [shlex.split(step) for target in words[1:] if target != "setup" for step in recipe(target)]
        else:
            commands.append([str(BIN / Path(words[0]).name), *words[1:]])
    beside: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            if command[-1] == "worker":
                beside.append(subprocess.Popen(command, env=environ, cwd=ROOT, stderr=subprocess.PIPE))
                time.sleep(1)
                continue
            done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, (command, done.stdout, done.stderr)
            if command[-1] == "down":
                assert "ended" in (done.stdout + done.stderr).lower()
    finally:
        for process in beside:
            process.terminate()
            process.communicate(timeout=30)
    assert len(beside) == 1


def test_the_http_block_works_as_written(environ: dict[str, str]) -> None:
    """The three curl lines, against `make api` and a worker, on a port of their own."""
    [block] = [block for block in BLOCKS if "curl" in block]
    run = {"env": environ, "cwd": ROOT, "check": True, "capture_output": True, "timeout": 60}
    subprocess.run([BIN / "trellis", "up"], **run)  # type: ignore[call-overload]
    subprocess.run([BIN / "trellis", "migrate"], **run)  # type: ignore[call-overload]
    [command] = recipe("api")
    api = subprocess.Popen(
        [*shlex.split(command), "--port", "0"], env=environ, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    worker = subprocess.Popen([BIN / "trellis", "worker"], env=environ, cwd=ROOT, stderr=subprocess.DEVNULL, text=True)
    try:
        assert api.stdout is not None
        address = ""
        while not address:
            line = api.stdout.readline()
            assert line, "the API ended before it said where it listens"
            address = next(iter(re.findall(r"http://[\d.]+:\d+", line)), "")
        answers = []
        for line in lines(block):
            words = shlex.split(line.replace("http://127.0.0.1:8000", address))
            assert words[0] == "curl"
            method = "POST" if "POST" in words else "GET"
            body = words[words.index("-d") + 1] if "-d" in words else None
            url = next(word for word in words if word.startswith("http"))
            answers.append(httpx.request(method, url, content=body))
        assert [answer.status_code for answer in answers] == [201, 202, 200]
        assert answers[-1].json()["order_id"] == "order-2"
    finally:
        for process in (worker, api):
            process.terminate()
            process.communicate(timeout=30)


def test_the_demo_prints_what_the_readme_shows(environ: dict[str, str]) -> None:
    """The README's example output has the shape of a real one, line by line."""
    readme = (ROOT / "README.md").read_text()
    [shown] = re.findall(r"```\n(order demo-.*?)```", readme, re.DOTALL)
    done = subprocess.run(
        [BIN / "trellis", "demo", "--faults", "canonical"],
        env=environ, cwd=ROOT, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shapes = (
        r"order demo-\w+ +2 x book, 25\.00, policy swift",
        r" +\d+\.\d\d s  [A-Z_]+( +\w+)?( +attempt \d+)?( +\S.*)?",
        r" +\.\.\.",
        r"COMPLETED after [\d.]+ s and \d+ attempts at 6 steps; the payment provider's own book shows 1 charge\.",
    )
    for text in (shown, done.stdout):
        for line in text.strip("\n").splitlines():
            assert any(re.fullmatch(shape, line.rstrip()) for shape in shapes), line
