"""The scorers that compute with potentials: uncertainty, second opinions, phonons, elastic constants."""

from __future__ import annotations

from contextlib import ExitStack

from pydantic import TypeAdapter

from ..core.campaign import Campaign
from ..core.choices.relaxers import MlipChoice, PotentialName, RelaxerChoice
from ..core.errors import InputError
from ..core.protocols import Evaluator, Reference, Relaxer, Scorer
from ..core.settings import Settings
from ..engines.finalists import FMAX, SMAX, Finalists, Potential
from ..validators.extrapolation import Extrapolation
from ..validators.opinions import Opinion, Opinions
from ..validators.stability import Stability
from .build import build_relaxer, with_own_energies

_PATIENCE = 10  # finalists may take so much longer: tighter thresholds, larger cells
_STEPS = 500


def stability_scorers(
    campaign: Campaign, reference: Reference, relaxer: Relaxer, settings: Settings, resources: ExitStack
) -> tuple[Scorer, ...]:
    """What the campaign's `review` section asks for.

    Args:
        reference: the known phases, with the energies of their source.
        relaxer: the campaign's own. resources: what is opened here is closed with it.

    Raises:
        HeliodorError: a package is missing; a potential that cannot be compared with the reference, or
            that is the campaign's own; a relaxer that gives no forces.
    """
    rules = campaign.review
    found: list[Scorer] = []
    if rules.scores:
        found.append(
            Extrapolation(relaxer.supports, relaxer if isinstance(relaxer, Evaluator) else None)
        )
    if rules.scores or rules.potentials:
        opinions = [
            _opinion(name, campaign, reference, relaxer, settings, resources)
            for name in dict.fromkeys(rules.potentials)
        ]
        found.append(Opinions(relaxer.model, opinions))
    if rules.phonons or rules.elastic:
        finalists = Finalists(_tight(campaign.relaxer, relaxer, settings, resources), rules.within)
        if rules.phonons:
            from ..engines.phonons import PhononScorer

            found.append(PhononScorer(finalists))
        if rules.elastic:
            from ..engines.elastic import ElasticScorer

            found.append(ElasticScorer(finalists))
    return tuple(found)


def _opinion(
    name: PotentialName,
    campaign: Campaign,
    reference: Reference,
    own: Relaxer,
    settings: Settings,
    resources: ExitStack,
) -> Opinion:
    """A further potential, with the thresholds and limits of the campaign's own."""
    content: dict[str, object] = {"kind": name}
    if name.startswith("sevennet-mf"):
        content = {"kind": "sevennet-mf", "channel": name.removeprefix("sevennet-mf-")}
    if isinstance(campaign.relaxer, MlipChoice):
        kept = set(MlipChoice.model_fields) - {"first", "early_stop"}
        content |= campaign.relaxer.model_dump(include=kept)
    choice: RelaxerChoice = TypeAdapter(RelaxerChoice).validate_python(content)
    relaxer = build_relaxer(choice, settings.workers)
    if relaxer is None or relaxer.model == own.model:
        raise InputError(
            f"review.potentials: got {name!r}, the potential of the relaxation itself",
            hint="a second opinion takes another potential",
        )
    resources.callback(relaxer.close)
    if campaign.own_energies:
        reference = with_own_energies(reference, relaxer, choice, settings)
    return Opinion(relaxer, Stability(reference, relaxer.model).judge_many)


def _tight(
    choice: RelaxerChoice, relaxer: Relaxer, settings: Settings, resources: ExitStack
) -> Potential:
    """The campaign's potential with the thresholds that small displacements ask for."""
    if isinstance(choice, MlipChoice):
        tight = choice.model_copy(
            update={
                "fmax": FMAX,
                "smax": SMAX,
                "max_steps": max(choice.max_steps, _STEPS),
                "time_limit": _PATIENCE * choice.time_limit,
                "first": None,
                "early_stop": None,
            }
        )
        made = build_relaxer(tight, settings.workers)
        if isinstance(made, Potential):
            resources.callback(made.close)
            return made
    if isinstance(relaxer, Potential):
        return relaxer
    raise InputError(
        f"review: phonons and elastic need forces, and the relaxer {relaxer.name!r} gives none",
        hint="use a potential that Heliodor knows, or give the plugin an evaluate (protocol Evaluator)",
    )
