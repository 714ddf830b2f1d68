"""What a flow is given: by the command line as objects, by a Prefect server as JSON from a form."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar, cast, get_type_hints

from prefect.utilities.annotations import quote
from pydantic import Field, TypeAdapter, ValidationError

from ..core.campaign import Campaign, parse_campaign
from ..core.errors import InputError
from ..core.settings import load_settings

P = ParamSpec("P")
R = TypeVar("R")

Attempts = Annotated[int, Field(ge=1, le=100)]
Rounds = Annotated[int, Field(ge=1)]


def as_is(value: R) -> R:
    """A task's parameter in which Prefect need not look for futures: it would walk all of it, twice."""
    return cast("R", quote(value))


def checked(flow: Callable[P, R]) -> Callable[P, R]:
    """The function, with its parameters turned into the types of its signature before it begins.

    A form's JSON becomes models. Prefect would do so too (`validate_parameters`), but would not say
    which value it found.

    Raises:
        InputError: lists every parameter out of place, the value found and what is allowed.
    """
    signature = inspect.signature(flow)
    hints = get_type_hints(flow, include_extras=True)

    @functools.wraps(flow)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        faults: list[str] = []
        for name, value in bound.arguments.items():
            try:
                bound.arguments[name] = _typed(name, value, hints[name])
            except InputError as error:
                faults.append(str(error))
        if faults:
            raise InputError("\n".join(faults))
        return flow(*bound.args, **bound.kwargs)

    return call


def _typed(name: str, value: Any, hint: Any) -> Any:
    if hint is Campaign:
        return value if isinstance(value, Campaign) else _campaign(name, value)
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, (name, *item['loc'])))}: got {item['input']!r}; {item['msg']}"
            for item in error.errors(include_url=False)
        ]
        raise InputError("\n".join(lines)) from error


def _campaign(name: str, value: Any) -> Campaign:
    if not isinstance(value, dict):
        raise InputError(f"{name}: got {value!r}; expected the content of a campaign file")
    return parse_campaign(value, source=name)


def run_name() -> str:
    """What a flow run is called: after its campaign, or after its folder."""
    from prefect.runtime import flow_run

    given = flow_run.parameters
    match given.get("campaign"):
        case Campaign(name=name) | {"name": str(name)}:
            return name
    return Path(str(given.get("folder") or given.get("out") or "run")).name


def campaign_folder(folder: str | None, name: str) -> Path:
    """Where a campaign's ledger and report are.

    Args:
        folder: absolute, or inside HELIODOR_RUNS; empty: `name`, inside HELIODOR_RUNS.

    Raises:
        InputError: see `absolute`.
    """
    base = load_settings().runs
    hint = f"give an absolute path, or set HELIODOR_RUNS (here {str(base)!r}) to one where it runs"
    return absolute("folder", str(base / (folder or name)), hint)


def absolute(field: str, path: str, hint: str = "give an absolute path") -> Path:
    """A path, made absolute.

    Raises:
        InputError: it is relative, and a deployment's run begins in a folder that its worker chose and
            may delete afterwards.
    """
    from prefect.runtime import deployment

    if deployment.id is not None and not Path(path).is_absolute():
        raise InputError(f"{field}: got {path!r}, a relative path in a deployment's run", hint=hint)
    return Path(path).absolute()
