"""Whether the Prefect server that is set can do what deployments ask of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any

from .finding import Check

if TYPE_CHECKING:
    import httpx

_CLOCKS = 30.0  # seconds; Prefect's workers look ten seconds ahead
_TIMEOUT = 5.0
_MANY = 200  # the API's largest page


def prefect_checks() -> Iterator[Check]:
    """The server, its clock and version, its schedules, its work pools and their workers."""
    url = os.environ.get("PREFECT_API_URL")
    if url is None:
        yield Check("Prefect server", "ok", "none set; runs start one for themselves")
        return
    import httpx

    key = os.environ.get("PREFECT_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=url.rstrip("/"), timeout=_TIMEOUT, headers=headers) as client:
        try:
            answer = client.get("/health")
            answer.raise_for_status()
            yield Check("Prefect server", "ok", url)
            yield from _clock(answer)
            yield from _version(client)
            deployments = _all(client, "/deployments/filter")
            yield from _schedules(client, deployments)
            yield from _pools(client, deployments)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            yield Check("Prefect server", "fail", f"{url}: {error}", "start it: prefect server start")


def _clock(answer: httpx.Response) -> Iterator[Check]:
    if "date" not in answer.headers:
        return
    theirs = parsedate_to_datetime(answer.headers["date"])
    ahead = (theirs - datetime.now(UTC)).total_seconds()
    if abs(ahead) > _CLOCKS:
        word = "ahead of" if ahead > 0 else "behind"
        found = f"the server's is {abs(ahead):.0f} s {word} ours"
        yield Check("clocks", "warn", found, "set both by NTP, or scheduled runs start late")


def _version(client: httpx.Client) -> Iterator[Check]:
    theirs = str(client.get("/admin/version").json())
    ours = metadata.version("prefect")
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        found = f"server {theirs}, here {ours}"
        yield Check("Prefect versions", "warn", found, "use one minor version on both")


def _schedules(client: httpx.Client, deployments: list[dict[str, Any]]) -> Iterator[Check]:
    """A schedule that is on must have a run ahead: a server with SQLAlchemy 2.1 makes none."""
    scheduled = [d for d in deployments if any(s["active"] for s in d.get("schedules", []))]
    if not scheduled:
        return
    ahead = {
        run["deployment_id"]
        for run in _all(
            client, "/flow_runs/filter", flow_runs={"state": {"type": {"any_": ["SCHEDULED"]}}}
        )
    }
    waiting = [d["name"] for d in scheduled if d["id"] not in ahead and not d.get("paused")]
    if waiting:
        yield Check(
            "schedules",
            "fail",
            f"no run ahead of: {', '.join(waiting)}",
            "wait a minute and look again; else the server's scheduler is ill:"
            " pip install 'sqlalchemy<2.1' there",
        )
    else:
        yield Check("schedules", "ok", f"{len(scheduled)} on, each with a run ahead")


def _pools(client: httpx.Client, deployments: list[dict[str, Any]]) -> Iterator[Check]:
    pools = {pool["name"]: pool for pool in _all(client, "/work_pools/filter")}
    wanted = {
        name
        for deployment in deployments
        if (name := deployment.get("work_pool_name")) and "heliodor" in deployment.get("tags", [])
    }
    for name in sorted(wanted & pools.keys()):
        workers = _all(client, f"/work_pools/{name}/workers/filter")
        online = sum(worker.get("status") == "ONLINE" for worker in workers)
        kind = pools[name]["type"]
        if pools[name].get("is_paused"):
            yield Check(f"work pool {name}", "warn", "paused", f"prefect work-pool resume {name}")
        elif online == 0:
            yield Check(
                f"work pool {name}",
                "warn",
                f"{kind}; no worker is online",
                f"prefect worker start --pool {name}",
            )
        else:
            yield Check(f"work pool {name}", "ok", f"{kind}; {online} workers online")


def _all(client: httpx.Client, path: str, **content: Any) -> list[dict[str, Any]]:
    answer = client.post(path, json={**content, "limit": _MANY})
    answer.raise_for_status()
    found: list[dict[str, Any]] = answer.json()
    return found
