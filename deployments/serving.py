"""Deployments without a work pool: one process on one machine that runs what is asked for or due."""

from __future__ import annotations

import os
from collections.abc import Sequence

from prefect import serve as serve_until_stopped
from prefect.client.orchestration import get_client

from ..core.campaign import Campaign
from ..core.settings import load_settings
from .register import Plan, forms, of_campaign
from .resuming import HEARTBEAT, register_resuming
from .server import require_server


def serve(campaigns: Sequence[Campaign], plan: Plan, resumes: int) -> None:
    """Register the campaigns' deployments, or the empty forms, and run what is asked for or due.

    It ends with Ctrl-C or SIGTERM; a run that was at work then goes on when this is started again.

    Args:
        plan: of each campaign. resumes: how often one run is started again after a crash.

    Raises:
        MissingError, InputError: see `register.deploy`.
    """
    require_server()
    # The runs are processes of their own and inherit this: folders where this process was started, and
    # heartbeats often enough to be missed soon.
    os.environ["HELIODOR_RUNS"] = str(load_settings().runs.absolute())
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", str(HEARTBEAT))
    made = [of_campaign(campaign, plan) for campaign in campaigns] or forms()
    for deployment in made:
        deployment.paused = False  # the end of an earlier `serve` has paused it
    with get_client(sync_client=True) as client:
        register_resuming(client, resumes)
    serve_until_stopped(*made)
