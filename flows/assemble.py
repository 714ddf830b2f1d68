"""Puts a campaign together: the ledger and the rooms that its file names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from ..cluster.remote import RemoteGenerator, RemoteRelaxer
from ..core.campaign import Campaign
from ..core.choices.relaxers import MlipChoice
from ..core.crystal import Crystal
from ..core.journal import Journal
from ..core.protocols import DftCalculator, OrderedValidator
from ..core.records import Stage
from ..core.settings import Settings
from ..tasks.assess import assessed_crystals
from ..tasks.context import Context, InOrder
from ..tasks.screen import screened_crystals
from .budget import job_spent
from .build import (
    build_dft,
    build_generator,
    build_relaxer,
    open_ledger,
    with_own_energies,
)
from .on_cluster import on_cluster
from .pinned import reference_of
from .scorers import build_scorers
from .stability_scorers import stability_scorers


def assemble(
    campaign: Campaign, folder: Path, settings: Settings, attempts: int = 1, *, probe: bool = True
) -> Context:
    """Everything that a campaign needs, checked before any work starts.

    Args:
        probe: ask the generator whether it can serve the space (not needed to write a report).

    Raises:
        HeliodorError: an extra, a file, weights or a key is missing, the generator cannot serve the
            space, or the ledger belongs to another campaign.
    """
    from ..validators.matching import MatcherSettings
    from ..validators.stability import Stability
    from ..validators.uniqueness import Uniqueness
    from ..validators.validity import Validity

    conditions = campaign.space.conditions()
    remote = on_cluster(campaign, folder, settings)
    if probe and remote is not None:
        remote.check()
    generator = build_generator(campaign.generator)
    if probe:
        generator.generate(1, seed=campaign.seed, conditions=conditions)  # refuses what it cannot serve
    rules = campaign.screen
    matcher = MatcherSettings(rules.ltol, rules.stol, rules.angle_tol)
    relaxer = build_relaxer(campaign.relaxer, settings.workers)
    reference = reference_of(campaign, folder, matcher, settings)
    resources = ExitStack()
    scorers = build_scorers(campaign.review, reference)
    if relaxer is not None:
        resources.callback(relaxer.close)
        scorers += stability_scorers(campaign, reference, relaxer, settings, resources)
    if remote is not None:
        resources.callback(remote.close)
        generator = remote.generator(generator, campaign.generator)
        relaxer = remote.relaxer(relaxer, campaign.relaxer) if relaxer is not None else None
        for stage in (generator, relaxer):
            if isinstance(stage, RemoteGenerator | RemoteRelaxer):
                resources.callback(stage.close)
    if campaign.own_energies and relaxer is not None:
        reference = with_own_energies(reference, relaxer, campaign.relaxer, settings)
    elsewhere = remote.calculations(campaign.dft) if remote is not None else None
    dft = build_dft(campaign.dft, settings, elsewhere) if relaxer is not None else None
    if campaign.runs_dft and isinstance(dft, DftCalculator) and conditions.elements:
        dft.level(conditions.elements)  # refuses elements and programs that are not there
    ledger = open_ledger(campaign, folder, settings)
    if remote is not None:
        remote.desk.spent = job_spent(Journal(ledger.database, ledger.campaign_id))

    def uniqueness() -> OrderedValidator:
        return Uniqueness(matcher)

    stability = Stability(reference, relaxer.model) if relaxer is not None else None
    ceilings: Callable[[Sequence[Crystal]], list[float | None]] | None = None
    margin = campaign.relaxer.early_stop if isinstance(campaign.relaxer, MlipChoice) else None
    if relaxer is not None and stability is not None and margin is not None:
        ceilings = partial(stability.ceilings, model=relaxer.model, above=margin)
    return Context(
        campaign=campaign,
        ledger=ledger,
        folder=folder,
        generator=generator,
        validity=Validity(
            conditions,
            charge_neutral=rules.charge_neutral,
            min_distance_ratio=rules.min_distance_ratio,
        ),
        unique=InOrder(uniqueness, ledger, Stage.SCREEN, screened_crystals),
        unique_relaxed=InOrder(uniqueness, ledger, Stage.ASSESS, assessed_crystals),
        reference=reference,
        relaxer=relaxer,
        judge=stability.judge_many if stability is not None else None,
        ceilings=ceilings,
        dft=dft,
        scorers=scorers,
        resources=resources,
        workers=settings.workers,
        attempts=attempts,
        cluster=remote.cluster if remote is not None else None,
    )
