"""Events that people are told about, each once per campaign, however often it is run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect.events import emit_event

from ..core.journal import Kind
from .context import Context

SUN_FOUND = "heliodor.sun.found"
BUDGET_SPENT = "heliodor.budget.spent"
FAILURES_JUMPED = "heliodor.failures.jumped"
APPROVAL_WANTED = "heliodor.approval.wanted"
EVENTS = (SUN_FOUND, BUDGET_SPENT, FAILURES_JUMPED, APPROVAL_WANTED)


def tell(context: Context, event: str, about: str, message: str, facts: Mapping[str, Any]) -> bool:
    """Emit an event, unless it was told before; whether it was news.

    The journal is written first: a process that is killed in between has told nobody, and nobody is told
    twice.

    Args:
        about: what distinguishes it from others of its kind. message: one sentence for people.
    """
    if not context.journal.add(Kind.NOTICE, f"{event} {about}"[:128], {"message": message, **facts}):
        return False
    emit(context, event, message, facts)
    return True


def emit(context: Context, event: str, message: str, facts: Mapping[str, Any]) -> None:
    """Send an event about the campaign to the Prefect server; without one, nothing happens."""
    name = context.campaign.name
    emit_event(
        event,
        resource={
            "prefect.resource.id": f"heliodor.campaign.{name}",
            "prefect.resource.name": name,
            "heliodor.message": message[:500],
        },
        payload={"message": message, "folder": str(context.folder), **facts},
    )
