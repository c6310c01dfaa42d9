"""No command shows a password, a token or a key, whatever is wrong with the settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from trellis import stack

pytestmark = pytest.mark.slow

SECRET = "s3cr3t-w0rd"
ENCODED = quote("s3cr3t@w0rd", safe="")

# One process runs all commands, one after the other: each would take seconds to start by itself.
WALK = """
import json, os, sys, traceback
import typer
from trellis.cli import app
from trellis.errors import TrellisError

settings, skipped = json.loads(sys.argv[1]), json.loads(sys.argv[2])
clean = dict(os.environ)

def commands(group, path=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        elif " ".join((*path, name)) not in skipped and (*path, "*")[0] + " *" not in skipped:
            given = ["x" for one in command.params if one.param_type_name == "argument" and one.required]
            yes = ["--yes"] if any("--yes" in one.opts for one in command.params) else []
            for one in command.params:
                if one.param_type_name == "option" and one.required:
                    given += [one.opts[0], "x"]
            yield [*path, name, *given, *yes]

ended = []
for number, changes in enumerate(settings):
    os.environ.clear()
    os.environ.update(clean | changes)
    for line in commands(typer.main.get_command(app)):
        try:
            app(line, standalone_mode=False)
            how = "done"
        except TrellisError as error:
            how = "refused"
            print(error, file=sys.stderr)
            traceback.print_exc()
        except BaseException as error:
            how = "usage" if hasattr(error, "exit_code") else type(error).__name__
            traceback.print_exc()
        ended.append([number, " ".join(line), how])
print("\\n" + json.dumps(ended))
"""


def walk(home: Path, settings: list[dict[str, str]], skipped: list[str]) -> tuple[list[tuple[int, str, str]], str]:
    """Run every command under each of the settings: how each ended, and all that was written."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TRELLIS_", "TEMPORAL_"))}
    ended = subprocess.run(
        [sys.executable, "-c", WALK, json.dumps(settings), json.dumps(skipped)],
        env=environment | {"TRELLIS_HOME": str(home), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        cwd=home, capture_output=True, text=True, check=True, timeout=110,
    )  # fmt: skip
    return [tuple(one) for one in json.loads(ended.stdout.splitlines()[-1])], ended.stdout + ended.stderr


def profile(home: Path, name: str, text: str) -> dict[str, str]:
    path = home / f"{name}.toml"
    path.write_text(text)
    return {"TEMPORAL_PROFILE": "default", "TEMPORAL_CONFIG_FILE": str(path)}


def test_no_command_shows_a_secret_of_malformed_settings(tmp_path: Path) -> None:
    """Every command under settings that cannot be read: refused in a sentence, and the secret is nowhere."""
    urls = [
        f"mysql://u:{SECRET}@h/d", f"postgresql+nonsense://u:{SECRET}@h/d", f"postgresql://u:{SECRET}@h:x/d",
        f"postgresql://u:{SECRET}%@h/d", f"postgresql://u:{SECRET}/x@h/d", f"postgresql://u@h/d?{SECRET}",
        f"host=h password='{SECRET}", SECRET,
    ]  # fmt: skip
    settings = [
        *({"DATABASE_URL": url} for url in urls),
        {"DATABASE_URL": urls[0], "LOG_FORMAT": "json", "LOG_LEVEL": "DEBUG"},
        {"TEMPORAL_ADDRESS": f"https://u:{SECRET}@h:7233"},
        {"TRELLIS_API_TOKN": SECRET},
        {"LOG_LEVEL": SECRET},
        {"WORKFLOW_RUN_TIMEOUT_SECONDS": SECRET},
    ]
    ended, written = walk(tmp_path, settings, [])
    assert len({line for _, line, _ in ended}) > 20
    # What reads no settings cannot be refused for them.
    refused = {line for _, line, how in ended if how == "refused"}
    assert {"up", "down", "status", "migrate", "worker", "api", "audit", "order list", "demo"} <= refused
    assert {how for _, _, how in ended} <= {"refused", "usage"}
    assert SECRET not in written


def test_no_command_shows_a_secret_of_servers_that_refuse_it(tmp_path: Path, running: stack.Stack) -> None:
    """A well-formed address that leads nowhere, a wrong key, a broken profile: the sentence keeps the secret."""
    nowhere = running.database_url.replace("/trellis?", "/nowhere?").replace("@", f":{ENCODED}@", 1)
    assert nowhere.count(ENCODED) == 1
    temporal = {"TEMPORAL_ADDRESS": running.temporal.address, "LOG_LEVEL": "DEBUG"}
    here = running.database_url
    settings = [
        temporal | {"DATABASE_URL": nowhere},
        temporal | {"DATABASE_URL": f"{nowhere}&sslpassword={SECRET}", "LOG_FORMAT": "json"},
        {"DATABASE_URL": here}
        | profile(tmp_path, "open", f'[profile.default]\naddress = "a:1"\napi_key = "{SECRET}\n'),
        {"DATABASE_URL": here} | profile(tmp_path, "type", f"[profile.default]\napi_key = ['{SECRET}']\n"),
    ]
    slow = ["notebooks", "recommend", "chaos", "bench *", "lab", "demo", "load"]
    ended, written = walk(tmp_path, settings, slow)
    assert {how for _, _, how in ended} <= {"refused", "usage", "done"}
    assert {"up", "status", "worker", "api", "order list"} <= {line for _, line, how in ended if how == "refused"}
    for secret in (SECRET, ENCODED, "s3cr3t@w0rd"):
        assert secret not in written


@pytest.mark.parametrize("spelling", ["postgresql+asyncpg", "postgres", "postgresql+psycopg2"])
def test_status_shows_the_server_without_its_password(tmp_path: Path, running: stack.Stack, spelling: str) -> None:
    """SQLAlchemy's spelling is taken, and what is shown of it holds `***` where the password was."""
    url = running.database_url.replace("postgresql", spelling, 1).replace("@", f":{ENCODED}@", 1)
    environment = os.environ | {
        "TRELLIS_HOME": str(tmp_path), "TEMPORAL_ADDRESS": running.temporal.address, "DATABASE_URL": url,
    }  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-m", "trellis", "up", "--json"], env=environment, capture_output=True, text=True, check=True
    )
    shown = json.loads(ended.stdout)["database"]["url"]
    assert shown.startswith("postgresql://postgres:***@")
    assert "w0rd" not in ended.stdout + ended.stderr
