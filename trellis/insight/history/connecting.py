"""A client for those who read histories. It needs a Temporal, and neither a Trellis stack nor a database."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from temporalio.client import Client
from temporalio.envconfig import ClientConfig

from trellis import config, stack
from trellis.environment import merged
from trellis.errors import BadInput, TemporalUnavailable

Connects = Callable[[], Client | Awaitable[Client]]


async def connected(
    client: Client | Connects | str | None = None,
    namespace: str | None = None,
    connect: Mapping[str, Any] | None = None,
) -> Client:
    """The given Client, the one that a function returns, or a new one: for an address, or by the settings.

    `connect`: further arguments of Temporal's `Client.connect`, such as tls, api_key and rpc_metadata. With
    client=None they come from TEMPORAL_PROFILE, or, with TEMPORAL_ADDRESS, from Temporal's own variables
    (TEMPORAL_API_KEY, TEMPORAL_TLS and so on); `connect` wins. A key in the environment is not sent to an address that
    a caller names. Raises TrellisError, without a key in its sentence.
    """
    if callable(client):
        made = client()
        client = await made if inspect.isawaitable(made) else made
    if isinstance(client, Client):
        if namespace not in (None, client.namespace):
            raise BadInput(f"This client reads namespace {client.namespace}, not {namespace}: connect another one.")
        return client
    options = dict(connect or {})
    if strange := sorted(set(options) - set(inspect.signature(Client.connect).parameters)):
        raise BadInput(f"connect= holds {', '.join(strange)}, which Temporal's Client.connect does not take.")
    try:
        if client is not None:
            return await Client.connect(client, **{"namespace": namespace or "default", **options})
        settings = config.load()
        if namespace is not None:
            settings = settings.model_copy(update={"temporal_namespace": namespace})
        target = stack.temporal_target(settings)
        if target.external and target.profile is None:
            options = _of_environment() | options
        return await stack.connect(target, **options)
    except (RuntimeError, ValueError, TypeError, TemporalUnavailable) as error:
        why = _without_secrets(str(error), options)
        if isinstance(error, TemporalUnavailable):
            raise TemporalUnavailable(why) from None
        where = client or "the address of the settings"
        raise TemporalUnavailable(f"No connection to Temporal at {where} ({why[:200]}).") from None


def _of_environment() -> dict[str, Any]:
    """TLS, key and headers by the variables that Temporal's own tools read, from the environment and `.env`."""
    variables = merged(None, Path(".env"))
    try:
        found = dict(ClientConfig.load_client_connect_config(disable_file=True, override_env_vars=variables))
    except Exception as error:
        # The further lines may repeat a value, which may be the key.
        why = (str(error) or type(error).__name__).splitlines()[0].rstrip(". ")
        raise TemporalUnavailable(f"Temporal's environment variables cannot be read: {why}.") from None
    return {name: value for name, value in found.items() if name not in ("target_host", "namespace")}


def _without_secrets(text: str, options: Mapping[str, Any]) -> str:
    headers = options.get("rpc_metadata") or {}
    for secret in (options.get("api_key"), *headers.values()):
        if isinstance(secret, str) and secret:
            text = text.replace(secret, "***")
    return text
