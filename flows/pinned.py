"""A campaign goes on with the version of the Materials Project that it was begun with."""

from __future__ import annotations

from pathlib import Path

from ..core.campaign import Campaign
from ..core.errors import InputError, ReferenceUnavailableError
from ..core.ledger import Ledger
from ..core.protocols import Reference, ReferenceInfo
from ..core.settings import Settings
from ..validators.matching import MatcherSettings
from .build import build_reference, open_ledger


def reference_of(
    campaign: Campaign, folder: Path, matcher: MatcherSettings, settings: Settings
) -> Reference:
    """The campaign's reference; of the Materials Project, in the version that its ledger names.

    So a newer snapshot in the cache changes nothing for a campaign that is under way.

    Raises:
        InputError: that version is neither in the cache nor served any more.
        HeliodorError: the reference cannot be had.
    """
    version = None
    begun = settings.ledger_url is not None or (folder / "ledger.sqlite").exists()
    if campaign.reference.kind == "mp" and begun:
        version = _begun_with(open_ledger(campaign, folder, settings))
    elements = campaign.space.conditions().elements
    try:
        return build_reference(campaign.reference, elements, matcher, settings, version)
    except ReferenceUnavailableError as error:
        if version is None:
            raise
        raise InputError(
            f"campaign '{campaign.name}' was begun with version {version} of the Materials Project, "
            f"which cannot be had: {error.message}",
            hint=f"put its snapshot back into {settings.cache / 'mp'}, or give the campaign a new name "
            "(or another --out)",
        ) from None


def refuse_changed_version(info: ReferenceInfo, ledger: Ledger) -> None:
    """A campaign's verdicts are all against one version of a database.

    Raises:
        InputError: it was begun with another.
    """
    begun = _begun_with(ledger)
    if begun not in (None, info.version):
        raise InputError(
            f"the campaign was begun with version {begun} of the reference's database; this is "
            f"{info.version}",
            hint="give the campaign a new name (or another --out)",
        )


def _begun_with(ledger: Ledger) -> str | None:
    """The version that the campaign's verdicts are against; None where there are none yet."""
    records = ledger.provenances().values()
    versions = {record.get("reference", {}).get("version") for record in records} - {None, ""}
    return min(versions, default=None)
