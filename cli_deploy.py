"""Commands that put campaigns on a Prefect server: `heliodor deploy` and `heliodor serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .core.errors import InputError

Cron = Annotated[
    str | None,
    typer.Option(
        help='Schedule of runs, such as "0 22 * * *"; a night that is not over drops the next.'
    ),
]
Timezone = Annotated[str, typer.Option(help="Of the schedule, such as Europe/Berlin.")]
Rounds = Annotated[
    int | None, typer.Option(min=1, help="Rounds of one run. [until the budget is spent]")
]
Attempts = Annotated[int, typer.Option(min=1, max=100, help="As for `heliodor run`.")]
Folder = Annotated[
    Path | None,
    typer.Option(help="Of the campaign, as the machine that runs it sees it. [HELIODOR_RUNS/NAME]"),
]
Cluster = Annotated[Path | None, typer.Option(help="Cluster file, as that machine sees it.")]
Resumes = Annotated[
    int, typer.Option(min=0, help="How often a crashed run is started again; for all on the server.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(deploy)
    app.command()(serve)


def deploy(
    campaign: Annotated[
        Path | None, typer.Argument(help="The campaign file; none: flows with empty forms.")
    ] = None,
    pool: Annotated[str | None, typer.Option(help="Work pool. [PREFECT_DEFAULT_WORK_POOL_NAME]")] = None,
    cron: Cron = None,
    timezone: Timezone = "UTC",
    rounds: Rounds = None,
    attempts: Attempts = 1,
    folder: Folder = None,
    cluster: Cluster = None,
    resumes: Resumes = 5,
    notify: Annotated[
        str | None, typer.Option(help="Notification block that is told, such as slack-webhook/lab.")
    ] = None,
) -> None:
    """Register a campaign on the Prefect server, to be run by the workers of a pool."""
    from .core.campaign import load_campaign
    from .flows.terminal import prepare_prefect

    loaded = load_campaign(campaign) if campaign else None
    if loaded is None:
        _only_for_campaigns(cron=cron, rounds=rounds, folder=folder, cluster=cluster)
    prepare_prefect(verbose=False)
    from .deployments.notify import register_notifications, require_block
    from .deployments.register import Plan
    from .deployments.register import deploy as put
    from .deployments.server import require_server

    if notify:  # before anything is registered
        require_server()
        require_block(notify)
    names = put(loaded, Plan(folder, rounds, attempts, cron, timezone, cluster), pool, resumes)
    for name in names:
        typer.echo(f"registered {name}; run it: prefect deployment run '{name}'")
    if notify:
        register_notifications(loaded.name if loaded else None, notify)
        typer.echo(f"notifications go to {notify}")


def serve(
    campaigns: Annotated[
        list[Path] | None, typer.Argument(help="Campaign files; none: flows with empty forms.")
    ] = None,
    cron: Cron = None,
    timezone: Timezone = "UTC",
    rounds: Rounds = None,
    attempts: Attempts = 1,
    cluster: Cluster = None,
    resumes: Resumes = 5,
) -> None:
    """Run campaigns that the Prefect server asks for, on this machine, without a work pool."""
    from .core.campaign import load_campaign
    from .flows.terminal import prepare_prefect

    loaded = [load_campaign(path) for path in campaigns or ()]
    if not loaded:
        _only_for_campaigns(cron=cron, rounds=rounds, cluster=cluster)
    prepare_prefect(verbose=True)  # the runs log to the server
    from .deployments.register import Plan
    from .deployments.serving import serve as run

    run(loaded, Plan(None, rounds, attempts, cron, timezone, cluster), resumes)


def _only_for_campaigns(**given: object) -> None:
    """Raise `InputError` where an option needs a campaign file."""
    if names := [f"--{name}" for name, value in given.items() if value is not None]:
        raise InputError(f"{', '.join(names)}: for a campaign; give its file")
