"""Settings: read once, from the environment and `.env`, into one frozen value that is passed along."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator

from trellis.database_url import normalised
from trellis.environment import merged
from trellis.errors import ConfigError


def _names(*names: str) -> Any:
    return AliasChoices(*names)


class Settings(BaseModel):
    """The values of the environment variables. A field's aliases are the variables' names; the first one that is set
    wins."""

    model_config = ConfigDict(frozen=True, validate_default=True)

    home: Path = Field(Path(".trellis"), validation_alias=_names("TRELLIS_HOME"))
    temporal_cli: Path | None = Field(None, validation_alias=_names("TRELLIS_TEMPORAL_CLI"))
    temporal_address: str | None = Field(None, validation_alias=_names("TEMPORAL_ADDRESS", "TEMPORAL_TARGET"))
    temporal_namespace: str | None = Field(None, validation_alias=_names("TEMPORAL_NAMESPACE"))
    temporal_profile: str | None = Field(None, validation_alias=_names("TEMPORAL_PROFILE"))
    database_url: str | None = Field(None, validation_alias=_names("DATABASE_URL"), repr=False)
    orders_queue: str = Field(
        "orders-tq", validation_alias=_names("ORDERS_TASK_QUEUE", "ORDERS_TQ", "ORDER_TASK_QUEUE"), min_length=1
    )
    shipping_queue: str = Field(
        "shipping-tq", validation_alias=_names("SHIPPING_TASK_QUEUE", "SHIPPING_TQ"), min_length=1
    )
    policy: str = Field("swift", validation_alias=_names("TRELLIS_POLICY"))
    run_timeout: float | None = Field(None, gt=0, validation_alias=_names("WORKFLOW_RUN_TIMEOUT_SECONDS"))
    faults: str | None = Field(None, validation_alias=_names("TRELLIS_FAULTS"))
    api_token: str | None = Field(None, validation_alias=_names("TRELLIS_API_TOKEN"), repr=False)
    api_published_on_loopback: bool = Field(False, validation_alias=_names("TRELLIS_API_PUBLISHED_ON_LOOPBACK"))
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", validation_alias=_names("LOG_LEVEL"))
    log_format: Literal["auto", "json", "console"] = Field("auto", validation_alias=_names("LOG_FORMAT"))

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("temporal_address", mode="after")
    @classmethod
    def _host_and_port(cls, value: str | None) -> str | None:
        # An address appears in messages and in `status`, so it must not hold a password.
        if value is not None and "@" in value:
            raise ValueError("write it as host:port; keys belong in a profile, which TEMPORAL_PROFILE names")
        return value

    @field_validator("database_url", mode="after")
    @classmethod
    def _postgres(cls, value: str | None) -> str | None:
        return None if value is None else normalised(value)

    @field_validator("home", mode="after")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    def with_own_servers(self, home: Path) -> Settings:
        """The same settings for another folder and for servers of its own, whichever were named."""
        servers = ("temporal_address", "temporal_namespace", "temporal_profile", "database_url")
        return self.model_copy(update={"home": home} | dict.fromkeys(servers))

    def environment(self) -> dict[str, str]:
        """The environment variables that give a child process exactly these settings.

        Every name that Trellis reads is among them; names that are not set are empty. So the child ignores its
        inherited environment and its `.env`.
        """
        given = {names[0]: getattr(self, field) for field, names in _NAMES.items()}
        return dict.fromkeys(variable_names(), "") | {
            name: str(value) for name, value in given.items() if value is not None
        }


_NAMES: dict[str, tuple[str, ...]] = {
    name: tuple(str(choice) for choice in field.validation_alias.choices)
    for name, field in Settings.model_fields.items()
    if isinstance(field.validation_alias, AliasChoices)
}


def variable_names() -> frozenset[str]:
    """Every environment variable that Trellis reads."""
    return frozenset(name for names in _NAMES.values() for name in names)


def load(environ: Mapping[str, str] | None = None, env_file: Path | None = Path(".env")) -> Settings:
    """Read the settings once. The environment wins over `.env`; an empty value counts as absent.

    Raises ConfigError for a value that cannot be used and for an unknown TRELLIS_* name.
    """
    found = merged(environ, env_file)
    known = variable_names()
    unknown = sorted(key for key in found if key.startswith("TRELLIS_") and key not in known)
    if unknown:
        offered = ", ".join(sorted(name for name in known if name.startswith("TRELLIS_")))
        raise ConfigError(f"Unknown setting {', '.join(unknown)}: check the spelling. Known are {offered}.")
    return _valid(found, known)


def of_an_app(
    environ: Mapping[str, str] | None = None, env_file: Path | None = Path(".env"), *, database: bool = True
) -> Settings:
    """Folder and database alone, for a plugin in somebody else's process: LOG_LEVEL and the like are its own there.

    `database`: False if the database was named in another way. Raises ConfigError for a value that cannot be used.
    """
    names = _NAMES["home"] + (_NAMES["database_url"] if database else ())
    return _valid(merged(environ, env_file), frozenset(names))


def _valid(found: Mapping[str, str], names: frozenset[str]) -> Settings:
    try:
        return Settings.model_validate({key: value for key, value in found.items() if key in names})
    except ValidationError as error:
        first = error.errors()[0]
        why = first["ctx"]["error"] if first["type"] == "value_error" else first["msg"].lower()
        raise ConfigError(f"{first['loc'][0]} cannot be used: {why}.") from None
