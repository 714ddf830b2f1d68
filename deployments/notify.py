"""Automations that send what campaigns tell (`heliodor.*` events) to a notification block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect.client.orchestration import get_client
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from ..core.errors import InputError
from ..tasks.notices import APPROVAL_WANTED, BUDGET_SPENT, FAILURES_JUMPED, SUN_FOUND
from .server import put_automation

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient

_SUBJECTS = {
    SUN_FOUND: "a crystal on or below the known hull",
    BUDGET_SPENT: "the campaign has ended",
    FAILURES_JUMPED: "far more failures than before",
    APPROVAL_WANTED: "DFT waits for approval",
}


def register_notifications(campaign_name: str | None, block_slug: str) -> list[str]:
    """Make the automations, one per event, or bring them up to date; returns their names.

    Args:
        campaign_name: whose events are sent; None: those of all campaigns.
        block_slug: TYPE/NAME of a notification block that is on the server, for example
            slack-webhook/lab or email-server-credentials/group.

    Raises:
        InputError: there is no such block, or it sends no notifications.
    """
    with get_client(sync_client=True) as client:
        block = _block(client, block_slug)
        made = [_automation(campaign_name, event, block) for event in _SUBJECTS]
        for automation in made:
            put_automation(client, automation)
    return [automation.name for automation in made]


def require_block(slug: str) -> None:
    """Raise `InputError` unless TYPE/NAME is a notification block of the server."""
    with get_client(sync_client=True) as client:
        _block(client, slug)


def _automation(campaign: str | None, event: str, block: UUID) -> AutomationCore:
    subject = _SUBJECTS[event]
    return AutomationCore(
        name=f"heliodor {campaign or 'all campaigns'}: {event}",
        description=f"Tells of {event}: {subject}.",
        trigger=EventTrigger(
            type="event",
            posture=Posture.Reactive,
            threshold=1,
            expect={event},
            match={"prefect.resource.id": f"heliodor.campaign.{campaign or '*'}"},
        ),
        actions=[
            SendNotification(
                type="send-notification",
                block_document_id=block,
                subject="{{ event.resource.name }}: " + subject,
                body="{{ event.payload.message }}\n\nfolder: {{ event.payload.folder }}",
            )
        ],
    )


def _block(client: SyncPrefectClient, slug: str) -> UUID:
    kind, _, name = slug.partition("/")
    if not name:
        raise InputError(f"notification block: got '{slug}'; give TYPE/NAME, such as slack-webhook/lab")
    try:
        block = client.read_block_document_by_name(name, kind)
    except ObjectNotFound:
        raise InputError(
            f"there is no block '{slug}' on the Prefect server",
            hint="make one in its UI (Blocks), or list them with: prefect block ls",
        ) from None
    capabilities = block.block_schema.capabilities if block.block_schema else []
    if "notify" not in capabilities:
        raise InputError(f"block '{slug}' sends no notifications (it is no notification block)")
    return block.id
