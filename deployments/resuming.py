"""Automations that start runs again whose process is gone, and give up in the end.

The ledger makes it safe: a run that goes on repeats nothing that was recorded, and one that was only cut
off from the server shares the work with the one that took its place.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from .server import put_automation

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

TAG = "heliodor"
RESUMES = 5
HEARTBEAT = 30
"""Seconds between a run's heartbeats: the shortest that Prefect allows (default 180)."""
SILENCE = 3 * HEARTBEAT

_RESUMED = "Resuming"
_RUN = "prefect.flow-run"
_WINDOW = timedelta(days=30)  # over which resumes of one run are counted


def register_resuming(
    client: SyncPrefectClient, resumes: int = RESUMES, silence: float = SILENCE
) -> list[str]:
    """Make the automations, or bring them up to date; they hold for all campaigns of the server.

    Args:
        resumes: how often one flow run is started again before it fails.
        silence: seconds without a heartbeat after which a run counts as crashed.

    Returns:
        Their names.
    """
    made = [_silent(silence), _crashed(), _given_up(resumes)]
    for automation in made:
        put_automation(client, automation)
    return [automation.name for automation in made]


def _silent(silence: float) -> AutomationCore:
    return AutomationCore(
        name=f"{TAG}: silent runs have crashed",
        description="A run whose heartbeats stopped, without an end: its process or its node is gone.",
        trigger=EventTrigger(
            after={f"{_RUN}.heartbeat"},
            expect={f"{_RUN}.*"},  # any sign: a heartbeat, an end, a pause
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=silence),
            **_of_ours(),
        ),
        actions=[
            ChangeFlowRunState(
                name=None,
                state=StateType.CRASHED,
                message=f"no heartbeat for {silence:g} s: its process, its node or its network is gone",
                force=True,
            )
        ],
    )


def _crashed() -> AutomationCore:
    return AutomationCore(
        name=f"{TAG}: crashed runs go on",
        description="A run that crashed is scheduled again; what was recorded is not repeated.",
        trigger=EventTrigger(
            expect={f"{_RUN}.Crashed"}, posture=Posture.Reactive, threshold=1, **_of_ours()
        ),
        actions=[
            ChangeFlowRunState(
                name=_RESUMED,
                state=StateType.SCHEDULED,
                message="it had crashed, and goes on where it stood",
                force=True,
            )
        ],
    )


def _given_up(resumes: int) -> AutomationCore:
    return AutomationCore(
        name=f"{TAG}: given up",
        description=f"A run that had to be started again more than {resumes} times has failed.",
        trigger=EventTrigger(
            expect={f"{_RUN}.{_RESUMED}"},
            posture=Posture.Reactive,
            threshold=resumes + 1,
            within=_WINDOW,
            **_of_ours(),
        ),
        actions=[
            ChangeFlowRunState(
                name=None,
                state=StateType.FAILED,
                message=f"given up: it crashed more than {resumes} times. Its logs say why; nothing that"
                " was recorded is lost, and a new run goes on",
                force=True,
            )
        ],
    )


def _of_ours() -> dict[str, Any]:
    """Each flow run by itself, of those that carry our tag."""
    return {
        "match": ResourceSpecification.model_validate({"prefect.resource.id": f"{_RUN}.*"}),
        "match_related": ResourceSpecification.model_validate(
            {"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"}
        ),
        "for_each": {"prefect.resource.id"},
    }
