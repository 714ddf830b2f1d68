"""`heliodor approve`: a person's answer to a shortlist, from the terminal."""

from __future__ import annotations

import getpass
import logging
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from ..core.errors import InputError
from ..core.journal import Journal
from ..core.settings import load_settings
from ..tasks.approval import Decision, Proposal, asked, decide, decision
from .build import reopen

log = logging.getLogger("heliodor.flows")


class Question:
    """What a campaign asks.

    Args:
        folder: of the campaign.

    Raises:
        InputError: it has asked nothing.
    """

    def __init__(self, folder: Path) -> None:
        ledger, campaign = reopen(folder, load_settings())
        self._journal = Journal(ledger.database, ledger.campaign_id)
        found = asked(self._journal)
        if found is None:
            raise InputError(
                f"campaign '{campaign.name}' waits for no approval",
                hint="with dft.approval: true it asks when its shortlist stands",
            )
        self.proposal: Proposal = found[0]
        self._runs: Sequence[str] = found[1]

    @property
    def answered(self) -> Decision | None:
        """The last answer."""
        return decision(self._journal, self.proposal.digest)

    def left_out(self, only: Sequence[str]) -> tuple[int, ...]:
        """The slots that are not among `only`, which are slots or formulas; of nothing: none.

        Raises:
            InputError: the shortlist has no such crystal; lists what it has.
        """
        crystals = self.proposal.crystals
        names = {name for c in crystals for name in (str(c.slot), c.formula)}
        if unknown := [name for name in only if name not in names]:
            known = ", ".join(c.label for c in crystals)
            raise InputError(f"--only: got {', '.join(unknown)}; on the shortlist: {known}")
        chosen = {c.slot for c in crystals if not only or {str(c.slot), c.formula} & set(only)}
        return tuple(c.slot for c in crystals if c.slot not in chosen)

    def answer(self, *, yes: bool, leave_out: Sequence[int] = (), comment: str = "") -> list[str]:
        """Record the answer, and resume the flow runs that wait for it.

        Returns:
            The ids of the flow runs that go on. One whose server does not answer stays suspended, and
            finds the answer when it is resumed.
        """
        given = Decision(yes, tuple(leave_out), getpass.getuser(), comment)
        decide(self._journal, self.proposal.digest, given)
        return [run for run in self._runs if _resume(run, self.proposal, given)]


def _resume(run: str, proposal: Proposal, given: Decision) -> bool:
    """Whether a suspended flow run was resumed with the answer."""
    from prefect.flow_runs import resume_flow_run
    from prefect.settings import get_current_settings

    if not get_current_settings().api.url:
        return False
    left_out = [c.label for c in proposal.crystals if c.slot in given.leave_out]
    answer = "yes" if given.yes else "no"
    fields = {"answer": answer, "leave_out": left_out, "comment": given.comment, "who": given.who}
    try:
        resume_flow_run(UUID(run), run_input=fields)
    except Exception as error:  # resumed by others, deleted, another server, none: all is recorded
        log.warning("flow run %s was not resumed: %s", run, error)
        return False
    return True
