"""Arguments and options that several commands share, and how JSON in them is read."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from trellis.errors import BadInput
from trellis.policies import PRESETS, Policy, preset, tuned

OrderId = Annotated[str, typer.Argument(help="The order's id.")]
Preset = Annotated[str | None, typer.Option("--policy", help=f"One of {', '.join(PRESETS)}.")]
Changes = Annotated[
    str,
    typer.Option(
        "--set",
        help="JSON object of policy fields to change. A retry field changes the rule of every step; `steps` holds "
        """rules for single ones: '{"max_tries": 20, "steps": {"dispatch": {"max_tries": 9}}}'.""",
    ),
]

_EXAMPLES = {
    "items": """'[{"sku": "book", "quantity": 2, "price": "12.50"}]'.""",
    "address": """'{"line1": "1 Main Street", "city": "Springfield"}'.""",
    "change": """'{"try_timeout": 1.0, "steps": {"dispatch": {"max_tries": 9}}}'.""",
}


def read_json(text: str | None, what: str) -> Any:
    """Read an argument's JSON. Raises BadInput with an example of `what`: items, address or change."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        raise BadInput(f"The {what} must be JSON, such as " + _EXAMPLES[what]) from None


def read_policy(name: str | None, changes: str, otherwise: str) -> Policy | None:
    """The preset `name` with `changes`; None when neither is given. Changes alone apply to the preset `otherwise`.

    Raises BadInput, ConfigError.
    """
    given = read_json(changes, "change")
    if not isinstance(given, dict):
        raise BadInput("The change must be a JSON object, such as " + _EXAMPLES["change"])
    if given:
        return tuned(preset(name or otherwise), **given)
    return preset(name) if name else None
