"""From the campaign file to concrete classes. Nothing else knows both."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..core.campaign import Campaign, parse_campaign
from ..core.choices import dft, generators, references, relaxers
from ..core.choices.section import PluginChoice
from ..core.crystal import Crystal
from ..core.errors import HeliodorError, InputError
from ..core.files import write_text
from ..core.protocols import DftEngine, Generator, Reference, Relaxer
from ..core.records import Candidate, Conditions, Failure, Stage
from ..core.settings import Settings

if TYPE_CHECKING:
    from ..core.ledger import Ledger
    from ..engines.dft_engine import Runner
    from ..validators.matching import MatcherSettings
    from ..validators.mp_supply import MpSupply

PLUGIN_GROUP = "heliodor.plugins"
T = TypeVar("T")
_CAMPAIGN_FILE = "campaign.json"


def build_generator(choice: generators.GeneratorChoice) -> Generator:
    """The generator that the campaign file names."""
    match choice:
        case generators.DiffusionChoice():
            return _diffusion(choice)
        case generators.SubstitutionChoice():
            from ..generators.substitution import SubstitutionGenerator

            return SubstitutionGenerator(choice.prototypes, charge_balanced=choice.charge_balanced)
        case generators.RandomChoice():
            from ..generators.random_symmetric import RandomGenerator

            return RandomGenerator(choice.spacegroups, charge_balanced=choice.charge_balanced)
        case generators.FilesChoice():
            from ..generators.files import FilesGenerator

            return FilesGenerator(choice.paths, choice.disorder)
        case PluginChoice():
            return _plugin(choice, Generator)


def _diffusion(choice: generators.DiffusionChoice) -> Generator:
    from ..generators.diffusion.generator import DiffusionGenerator, Sampling
    from ..generators.diffusion.planar import hold
    from ..generators.diffusion.request import Request, parse_targets

    planar, around = choice.planar, choice.around
    request = Request(
        symmetric=choice.symmetric,
        spacegroups=choice.spacegroups,
        crystal_system=choice.crystal_system,
        min_atoms=choice.min_atoms,
        n_elements=choice.n_elements,
        charge_balanced=choice.charge_balanced,
        targets=parse_targets(choice.properties),
        planar=hold(planar.lattice, planar.element, bond_length=planar.bond_length) if planar else None,
        start=_crystals(around.paths) if around else (),
        level=around.level if around else 0.5,
        keep_types=around.keep_elements if around else False,
    )
    sampling = Sampling(
        mode=choice.mode,
        batch=choice.batch,
        guidance=choice.guidance,
        device=choice.device,
        symmetrize=choice.symmetrize,
    )
    return DiffusionGenerator(Path(choice.weights) if choice.weights else None, request, sampling)


def _crystals(paths: tuple[str, ...]) -> tuple[Crystal, ...]:
    """The crystals in some files, all of them readable."""
    from ..generators.files import FilesGenerator

    conditions = Conditions(max_atoms=100_000)
    items = list(FilesGenerator(paths).generate(100_000, seed=0, conditions=conditions))
    bad = [item.detail for item in items if isinstance(item, Failure)]
    if bad or not items:
        raise InputError(f"around: {bad[0] if bad else 'no crystals in ' + ', '.join(paths)}")
    return tuple(item.crystal for item in items if isinstance(item, Candidate))


def build_relaxer(choice: relaxers.RelaxerChoice, workers: int) -> Relaxer | None:
    """The relaxer that the campaign file names; None where crystals are judged as they are."""
    match choice:
        case relaxers.NoRelaxerChoice():
            return None
        case PluginChoice():
            return _plugin(choice, Relaxer)
        case relaxers.MlipChoice():
            from ..engines.mlip import MlipRelaxer

            return MlipRelaxer(choice.potential, choice, workers)


def build_reference(
    choice: references.ReferenceChoice,
    elements: tuple[str, ...],
    matcher: MatcherSettings,
    settings: Settings,
    version: str | None = None,
) -> Reference:
    """The reference that the campaign file names.

    Args:
        elements: what may appear; empty: anything. version: of the Materials Project's database.
    """
    match choice:
        case references.EmbeddedChoice():
            from ..validators.reference_embedded import EmbeddedReference

            return EmbeddedReference()
        case references.FileChoice():
            from ..validators.reference_embedded import EmbeddedReference, is_fingerprint_table
            from ..validators.reference_file import FileReference

            path = Path(choice.path)
            if is_fingerprint_table(path):  # what `heliodor reference build` wrote
                return EmbeddedReference(path)
            return FileReference(path, matcher, settings.cache, settings.workers)
        case references.MpChoice():
            from ..validators.reference_mp import materials_project

            supply = mp_supply(choice.thermo_type, settings, version or choice.database_version)
            return materials_project(supply, elements, settings.cache, matcher)
        case PluginChoice():
            return _plugin(choice, Reference)


def mp_supply(
    thermo_type: references.ThermoType, settings: Settings, version: str | None = None
) -> MpSupply:
    """Snapshots of the Materials Project: those in the cache, and with a key what is not there yet."""
    from ..validators.mp_client import MpClient
    from ..validators.mp_supply import MpSupply

    server = MpClient(settings.mp_api_key) if settings.mp_api_key else None
    return MpSupply(settings.cache / "mp", thermo_type, server, version)


def with_own_energies(
    reference: Reference, relaxer: Relaxer, choice: relaxers.RelaxerChoice, settings: Settings
) -> Reference:
    """The reference with its phases' energies computed by the relaxer, kept in the cache folder.

    Raises:
        InputError: the reference has no structures, or the potential's scheme is not known.
        StorageError: the cache cannot be written.
    """
    from ..validators.phase_energies import PhaseEnergies
    from ..validators.reference_embedded import EmbeddedReference
    from ..validators.self_consistent import SelfConsistentReference

    if isinstance(reference, EmbeddedReference):
        raise InputError(
            f"reference.energies: got 'own', but {reference.info.name} has no structures to compute",
            hint="give a table of structures (kind: file), or the Materials Project (kind: mp)",
        )
    decides, limits = relaxers.relaxation_settings(choice)
    path = settings.cache / "own" / f"{relaxer.model.replace('/', '_')}.sqlite"
    energies = PhaseEnergies(path, relaxer.model, json.dumps(decides), json.dumps(limits))
    return SelfConsistentReference(reference, relaxer, energies)


def build_dft(
    choice: dft.DftChoice, settings: Settings, elsewhere: Runner | None = None
) -> DftEngine | None:
    """The DFT engine that the campaign file names; None where the campaign ends at the hull.

    Args:
        elsewhere: who runs its calculations in place of this machine.
    """
    match choice:
        case dft.NoDftChoice():
            return None
        case PluginChoice():
            return _plugin(choice, DftEngine)
        case dft.DftRun():
            from ..engines.dft_engine import FlowEngine
            from ..engines.recipes import recipe_for

            return FlowEngine(recipe_for(choice), choice, settings.cache / "dft", elsewhere)


def _plugin(choice: PluginChoice, protocol: type[T]) -> T:
    found = {point.name: point for point in metadata.entry_points(group=PLUGIN_GROUP)}
    if choice.name not in found:
        known = ", ".join(sorted(found)) or "none is installed"
        raise InputError(f"no plugin '{choice.name}'; known: {known}")
    try:
        made = found[choice.name].load()(**choice.options)
    except HeliodorError:
        raise
    except Exception as error:
        raise InputError(f"plugin '{choice.name}' could not be made: {error}") from error
    if not isinstance(made, protocol):
        raise InputError(
            f"plugin '{choice.name}' is no {protocol.__name__}: see heliodor.core.protocols"
        )
    return made


def stages_of(campaign: Campaign) -> tuple[Stage, ...]:
    """The stages that a campaign has."""
    stages: list[Stage] = [Stage.GENERATE, Stage.SCREEN]
    if campaign.relaxer.kind != "none":
        stages += [Stage.RELAX, Stage.ASSESS]
    stages.append(Stage.REVIEW)
    if campaign.relaxer.kind != "none" and campaign.dft.kind != "none":
        stages.append(Stage.DFT)
        if isinstance(campaign.dft, dft.DftRun):
            stages.append(Stage.VERIFY)
    return tuple(stages)


def ledger_url(folder: Path, settings: Settings) -> str:
    """The ledger's URL: the machine's shared one, or a file in the run's folder."""
    if settings.ledger_url is not None:
        return settings.ledger_url.get_secret_value()
    return f"sqlite:///{folder.resolve() / 'ledger.sqlite'}"


def open_ledger(campaign: Campaign, folder: Path, settings: Settings, *, create: bool = True) -> Ledger:
    """The campaign's ledger."""
    from ..core.database import Database
    from ..core.ledger import Ledger  # not above: a job on a node builds rooms, and needs no database

    database = Database(ledger_url(folder, settings), create=create)
    return Ledger(database, campaign, stages_of(campaign), settings.lease_seconds)


def remember(campaign: Campaign, folder: Path) -> None:
    """Keep the campaign's settings in its folder, so that the folder alone says what it is."""
    write_text(folder / _CAMPAIGN_FILE, campaign.model_dump_json(indent=2) + "\n")


def reopen(folder: Path, settings: Settings) -> tuple[Ledger, Campaign]:
    """The ledger and the settings of a campaign that was begun in `folder`.

    Raises:
        InputError: there is none, or its file is damaged.
    """
    path = folder / _CAMPAIGN_FILE
    if not path.is_file():
        raise InputError(f"no campaign in {folder}", hint="give the folder of a run, such as runs/NAME")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is damaged: {error}", hint="run the campaign again: it writes the file anew"
        ) from error
    campaign = parse_campaign(content, source=str(path))
    return open_ledger(campaign, folder, settings, create=False), campaign
