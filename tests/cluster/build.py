"""Build Temporal's server and its schema tool from their Go modules. Needs Go and a module proxy, nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

VERSION = "v1.32.0"
"""The server version that Trellis is tested with."""

_MODULE = "go.temporal.io/server"
_PACKAGES = (f"{_MODULE}/cmd/server", f"{_MODULE}/cmd/tools/sql")


class CannotBuild(Exception):
    """Go is missing, or `go install` failed."""


@dataclass(frozen=True)
class Binaries:
    """`server` runs a role; `sql` makes and updates the schema; `visibility` holds the schema of that database."""

    server: Path
    sql: Path
    visibility: Path


def build(folder: Path) -> Binaries:
    """The two programs and the schema in `folder`, made unless they are there. Takes 4 to 14 minutes on two cores.

    Raises CannotBuild.
    """
    binaries = Binaries(folder / "server", folder / "sql", folder / "visibility")
    if binaries.server.is_file() and binaries.sql.is_file() and binaries.visibility.is_dir():
        return binaries
    go = shutil.which("go")
    if go is None:
        raise CannotBuild("Go is not on PATH. Install Go 1.26 or later, or give --binaries a folder that holds both.")
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"GOBIN": str(folder), "GOFLAGS": "-buildvcs=false"}
    _run([go, "install", *(f"{package}@{VERSION}" for package in _PACKAGES)], environment)
    module = json.loads(_run([go, "mod", "download", "-json", f"{_MODULE}@{VERSION}"], environment))
    _adapt(Path(module["Dir"]) / "schema/postgresql/v12/visibility/versioned", binaries.visibility)
    return binaries


def _run(line: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuild(f"{' '.join(line[:3])} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def _adapt(source: Path, target: Path) -> None:
    """Copy the visibility schema without the extension `btree_gin`, which the embedded Postgres does not have.

    Its GIN indexes then leave the namespace out. Queries find the same rows, and there is one namespace here.
    """
    for path in sorted(source.rglob("*")):
        if path.is_file():
            text = path.read_text("utf-8")
            text = re.sub(r"DO LANGUAGE 'plpgsql' \$\$(?:(?!\$\$).)*btree_gin.*?\$\$;", "", text, flags=re.DOTALL)
            text = text.replace("USING GIN (namespace_id, ", "USING GIN (")
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(source)).write_text(text, "utf-8")
