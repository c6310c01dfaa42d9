"""The environment and `.env` as one mapping. Apart from the settings, because each command asks it before it starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values


def merged(environ: Mapping[str, str] | None, env_file: Path | None) -> dict[str, str]:
    """The environment over `.env`; an empty value counts as absent."""
    from_file = dotenv_values(env_file) if env_file is not None and env_file.is_file() else {}
    both = {**from_file, **(os.environ if environ is None else environ)}
    return {key: value for key, value in both.items() if value}


def asks_for_json_logs(environ: Mapping[str, str] | None = None, env_file: Path | None = Path(".env")) -> bool:
    """Whether everything on stderr must be JSON. This works even if another setting cannot be used."""
    return merged(environ, env_file).get("LOG_FORMAT") == "json"
