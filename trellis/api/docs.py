"""The OpenAPI document as one plain page. FastAPI's own loads its scripts from the open internet at run time."""

from __future__ import annotations

import json
from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { font: 600 1rem ui-monospace, monospace; margin: 2.5rem 0 .3rem; }
h2 b { display: inline-block; min-width: 4rem; }
pre { background: #8881; padding: .7rem; overflow-x: auto; border-radius: 4px; }
td { padding-right: 1.5rem; vertical-align: top; }
"""


def page(document: dict[str, Any]) -> str:
    """HTML without scripts: each operation with its parameters, example bodies and answers."""
    operations = "".join(
        _operation(method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    info = document["info"]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(info["title"])} API</title>'
        f"<style>{_STYLE}</style><h1>{escape(info['title'])} API</h1><p>{escape(info['description'])} "
        f'For programs: <a href="/openapi.json">openapi.json</a>.</p>{operations}</html>'
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parameters = ", ".join(
        f"<code>{escape(one['name'])}</code>" for one in operation.get("parameters", []) if one["in"] == "query"
    )
    content = operation.get("requestBody", {}).get("content", {})
    examples = "".join(
        f"<p>{escape(example.get('summary', name))}</p><pre>{escape(json.dumps(example['value'], indent=2))}</pre>"
        for form in content.values()
        for name, example in form.get("examples", {}).items()
    )
    answers = "".join(
        f"<tr><td>{code}<td>{escape(answer['description'])}" for code, answer in operation["responses"].items()
    )
    return (
        f"<h2><b>{method.upper()}</b> {escape(path)}</h2><p>{escape(operation['summary'])}"
        f"{'. Parameters: ' + parameters if parameters else ''}</p>{examples}<table>{answers}</table>"
    )
