"""DATABASE_URL: reads the usual spellings of a Postgres address, and hides the address's secrets.

A message never repeats what it refuses, because a part of that may be the password.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from urllib.parse import quote, unquote

_SCHEME = re.compile(r"([A-Za-z][\w.-]*)(?:\+([\w.-]+))?://", re.ASCII)
_DRIVERS = frozenset(
    ["asyncpg", "psycopg", "psycopg_async", "psycopg2", "psycopg2cffi", "psycopgasync", "pg8000", "pygresql"]
)
_PAIR = re.compile(r"\s*([a-z_]+)\s*=\s*('(?:\\.|[^'\\])*'|(?:\\.|[^\s'\\])*)(?=\s|$)", re.ASCII)
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})|%00")
_HOST = re.compile(r"[\w.%/-]*|\[[0-9A-Fa-f:.%\w]+\]", re.ASCII)

_LIBPQ = frozenset({
    "application_name", "channel_binding", "client_encoding", "connect_timeout", "dbname",
    "fallback_application_name", "gssdelegation", "gssencmode", "gsslib", "host", "hostaddr", "keepalives",
    "keepalives_count", "keepalives_idle", "keepalives_interval", "krbsrvname", "load_balance_hosts",
    "max_protocol_version", "min_protocol_version", "oauth_client_id", "oauth_client_secret", "oauth_issuer",
    "oauth_scope", "options", "passfile", "password", "port", "requirepeer", "require_auth", "scram_client_key",
    "scram_server_key", "service", "sslcert", "sslcertmode", "sslcompression", "sslcrl", "sslcrldir", "sslkey",
    "sslmode", "sslnegotiation", "sslpassword", "sslrootcert", "sslsni", "ssl_max_protocol_version",
    "ssl_min_protocol_version", "target_session_attrs", "tcp_user_timeout", "user",
})  # fmt: skip
_SECRET = frozenset(["password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"])
_RENAMED = {"database": "dbname", "timeout": "connect_timeout", "tcp_keepalive": "keepalives"}
_SSL = {"true": "require", "1": "require", "yes": "require", "false": "disable", "0": "disable", "no": "disable"}
# Settings of other drivers that say nothing about the server.
_OTHER_DRIVERS = frozenset({
    "async_fallback", "command_timeout", "executemany_mode", "max_cacheable_statement_size",
    "max_cached_statement_lifetime", "prepare_threshold", "prepared_statement_cache_size",
    "prepared_statement_name_func", "statement_cache_size", "use_native_hstore",
})  # fmt: skip

ENCODE = "write each @ : / ? % in a user name or password percent-encoded (@ is %40, / is %2F, % is %25)"


def normalised(text: str) -> str:
    """The address as libpq reads it. Takes libpq's own forms and SQLAlchemy's (`postgresql+asyncpg://`, `?ssl=`).

    Raises ValueError with half a sentence that does not repeat the text.
    """
    text = text.strip()
    scheme = _SCHEME.match(text)
    if scheme is None:
        _pairs(text)
        return text
    if scheme[1].lower() not in ("postgres", "postgresql") or (scheme[2] or "psycopg").lower() not in _DRIVERS:
        raise ValueError("it names another kind of database; Trellis needs Postgres (postgresql://user@host:5432/name)")
    return _text(*_parts(text[scheme.end() :]))


def masked(text: str) -> str:
    """The address for people and logs: `***` stands for every secret in it."""
    try:
        text = normalised(text)
        if _SCHEME.match(text) is None:
            return " ".join(f"{key}={'***' if key in _SECRET else value}" for key, value in _pairs(text))
        return _text(*_parts(text.partition("://")[2]), hide=True)
    except ValueError:
        return "postgresql://***"


def _text(
    user: str | None, password: str | None, hosts: str, name: str | None, query: list[tuple[str, str]],
    *, hide: bool = False,
) -> str:  # fmt: skip
    address = "postgresql://"
    if user is not None:
        address += quote(user, safe="")
    if password is not None:
        address += ":" + ("***" if hide else quote(password, safe=""))
    address += ("@" if user is not None else "") + hosts
    if name is not None:
        address += "/" + quote(name, safe="")
    if query:
        address += "?" + "&".join(
            f"{key}={'***' if hide and key in _SECRET else quote(value, safe='/')}" for key, value in query
        )
    return address


_Parts = tuple[str | None, str | None, str, str | None, list[tuple[str, str]]]


def _parts(rest: str) -> _Parts:
    """(user, password, hosts with ports, database, parameters), decoded except for the hosts."""
    authority, slash_or_mark, tail = _cut(rest)
    credentials, at, hosts = authority.rpartition("@")
    path, _, parameters = (tail if slash_or_mark == "/" else f"?{tail}").partition("?")
    if "@" in path:
        raise ValueError(f"its user name or password cannot be separated from its host; {ENCODE}")
    user: str | None = None
    password: str | None = None
    if at:
        user, colon, secret = credentials.partition(":")
        user = _decoded(user)
        password = _decoded(secret) if colon else None
    _check_hosts(hosts)
    return user, password, hosts, _decoded(path) if slash_or_mark == "/" else None, _query(parameters)


def _cut(rest: str) -> tuple[str, str, str]:
    found = re.search(r"[/?]", rest)
    return (rest[: found.start()], found[0], rest[found.end() :]) if found else (rest, "", "")


def _check_hosts(hosts: str) -> None:
    for one in hosts.split(","):
        host, colon, port = one.rpartition(":") if not one.endswith("]") else (one, "", "")
        if not colon:
            host = one
        elif port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f"its port is not a number from 1 to 65535; {ENCODE}")
        if not _HOST.fullmatch(host):
            raise ValueError(f"its host is not a valid name; {ENCODE}")
        _decoded(host)


def _decoded(part: str) -> str:
    if _BAD_PERCENT.search(part):
        raise ValueError(f"it holds a % that does not begin a percent-encoding; {ENCODE}")
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("it holds percent-encoded bytes that are not UTF-8") from None


def _query(text: str) -> list[tuple[str, str]]:
    """The parameters after the question mark, in libpq's words."""
    found: dict[str, str] = {}
    for part in filter(None, text.split("&")):
        key, sign, value = part.partition("=")
        value = _decoded(value)
        if key == "ssl":
            key, value = "sslmode", _SSL.get(value.lower(), value)
        elif key == "unix_sock":
            key, value = "host", str(PurePosixPath(value).parent)
        key = _RENAMED.get(key, key)
        if key in _OTHER_DRIVERS:
            continue
        if key not in _LIBPQ or not sign:
            raise ValueError(f"it has a parameter after ? that Postgres does not know; {ENCODE}")
        if key == "host" and key in found:
            # SQLAlchemy names several hosts one by one, each with its port.
            value = f"{found[key]},{value}"
        found[key] = value
    if "," in found.get("host", "") and ":" in found["host"] and "port" not in found:
        pairs = [one.partition(":") for one in found["host"].split(",")]
        found["host"] = ",".join(host for host, _, _ in pairs)
        found["port"] = ",".join(port or "5432" for _, _, port in pairs)
    return list(found.items())


def _pairs(text: str) -> list[tuple[str, str]]:
    """libpq's other form, `host=/tmp dbname=trellis`: its keys, and its values as they are written."""
    found, at = [], 0
    while at < len(text):
        pair = _PAIR.match(text, at)
        if pair is None or pair[1] not in _LIBPQ:
            raise ValueError("it is not a Postgres address (postgresql://user@host:5432/name)")
        found.append((pair[1], pair[2]))
        at = pair.end()
    return found
