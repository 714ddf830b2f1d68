"""The Prefect server that deployments and automations are registered with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.errors import InputError, MissingError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import AutomationCore

SLURM_POOL = "heliodor-slurm"


def require_server() -> str:
    """The address of a server that answers.

    Raises:
        MissingError: none is set (Prefect would start one that ends with this command), or it is dead.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if url is None:
        raise MissingError(
            "no Prefect server is set",
            hint="start one (prefect server start), then:"
            " prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api",
        )
    with get_client(sync_client=True) as client:
        error = client.api_healthcheck()
    if isinstance(error, httpx.HTTPStatusError):
        raise MissingError(f"the Prefect server at {url} answers: {error}") from error
    if error is not None:
        raise MissingError(
            f"no Prefect server answers at {url}", hint="start it (prefect server start)"
        ) from error
    return str(url)


def require_pool(client: SyncPrefectClient, name: str) -> None:
    """Raise `InputError` unless there is such a work pool."""
    from prefect.exceptions import ObjectNotFound

    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        known = ", ".join(sorted(pool.name for pool in client.read_work_pools())) or "none"
        raise InputError(
            f"there is no work pool '{name}' on the Prefect server; known: {known}",
            hint=f"make it: prefect work-pool create {name} --type process   (or: --type {SLURM_POOL})",
        ) from None


def put_automation(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """Make an automation, or bring the one of this name up to date.

    One that is as it should be is left alone: with an update the server forgets what it has seen, such
    as the runs that it watches for silence.
    """
    found = client.read_automations_by_name(automation.name)
    if not found:
        client.create_automation(automation)
    elif _content(found[0]) != _content(automation):
        client.update_automation(found[0].id, automation)


def _content(automation: AutomationCore) -> dict[str, Any]:
    """What decides how it works; the server adds to it."""
    return automation.model_dump(mode="json", include={"description", "trigger", "actions"})
