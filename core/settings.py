"""Machine settings (`HELIODOR_*` environment variables): apart from the campaign file."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from .errors import InputError


def available_cores() -> int:
    """The cores that this process may use: on a shared node, fewer than there are."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


class Settings(BaseSettings):
    """Where things are on this machine. Nothing here changes a result."""

    model_config = SettingsConfigDict(env_prefix="HELIODOR_", extra="ignore")

    ledger_url: SecretStr | None = Field(
        default=None,
        description="SQLAlchemy URL of a shared ledger (postgresql+psycopg://...); "
        "empty: a SQLite file in the run's folder.",
    )
    cache: Path = Field(
        default_factory=lambda: (
            Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "heliodor"
        ),
        description="Folder of snapshots and other things that can be made again.",
    )
    runs: Path = Field(
        default=Path("runs"),
        description="Folder of the campaigns' folders; a relative one begins where the program starts.",
    )
    cluster: Path | None = Field(
        default=None, description="Cluster file: which stages run as jobs; empty: all run here."
    )
    mp_api_key: SecretStr | None = Field(
        default=None, description="Materials Project key; MP_API_KEY is read too."
    )
    workers: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        description="Worker processes on this machine.",
    )
    lease_seconds: float = Field(
        default=120, ge=2, description="A worker silent for so long has lost its batch."
    )


def load_settings(cluster: Path | str | None = None) -> Settings:
    """Read the settings from the environment.

    Args:
        cluster: in the place of what HELIODOR_CLUSTER says.

    Raises:
        InputError: a value is out of place; names the variable.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = "HELIODOR_" + "_".join(map(str, first["loc"])).upper()
        raise InputError(f"{name}: got {first['input']!r}; {first['msg']}") from error
    if settings.mp_api_key is None and (key := os.environ.get("MP_API_KEY")):
        settings = settings.model_copy(update={"mp_api_key": SecretStr(key)})
    if cluster is not None:
        settings = settings.model_copy(update={"cluster": Path(cluster)})
    return settings
