"""Whether the generator does what it is asked: shares of crystals that obey, condition by condition.

    python benchmarks/diffusion_steering.py -n 200 --adapter bulk_modulus=FILE --out diffusion_steering
    python benchmarks/diffusion_steering.py -n 32 --only elements symmetry

Every share is over all that was asked of the generator: a crystal that could not be made did not obey.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from diffusion_common import (
    Model,
    Report,
    arguments_of,
    crystal_at,
    draw,
    machine,
    middle,
    normalised_rms,
    note,
    packed_tables,
    percent,
    rate,
    spacing,
    structure_table,
)

from heliodor.core.crystal import Crystal
from heliodor.core.records import Conditions, Relaxed
from heliodor.generators.diffusion.generator import Sampling
from heliodor.generators.diffusion.planar import hold, verify
from heliodor.generators.diffusion.request import CRYSTAL_SYSTEMS, Request
from heliodor.generators.diffusion.weights import shipped_adapters
from heliodor.validators.validity import Validity

SYMPREC = 0.1  # angstrom
SYSTEMS = ("Na-Cl", "Li-Ti-O", "Cs-Ag-Cl", "Fe-Ni-Al-O")
GROUPS = (225, 194, 62, 12)
FORMULAS = {"SrTiO3": (("Sr", 1), ("Ti", 1), ("O", 3)), "Li2TiO3": (("Li", 2), ("Ti", 1), ("O", 3))}
FORMULAS["NaFeO2"] = (("Na", 1), ("Fe", 1), ("O", 2))
NETS = {"kagome": "Mn", "honeycomb": "Co", "square": "Fe"}
# What is asked for, and what of it counts as met by the judge (the property's own unit).
TARGETS = {
    "bulk_modulus": (
        ("150 GPa", 150.0, (120.0, 180.0)),
        ("250 to 400 GPa", (250.0, 400.0), (250.0, np.inf)),
    ),
    "band_gap": (("2 to 3 eV", (2.0, 3.0), (2.0, 3.0)),),
}
LEVELS = (0.2, 0.4, 0.6, 0.8)
STARTS = 8  # held-out crystals that are noised
PARTS = ("elements", "symmetry", "planar", "properties", "start")


@dataclass(frozen=True, eq=False)
class Ask:
    """A request, and whether a crystal obeys it."""

    name: str
    conditions: Conditions
    obeyed: Callable[[Crystal], bool]
    request: Request = field(default_factory=Request)


def main() -> None:
    arguments = parse()
    model = Model.of(arguments)
    report = Report(arguments.out)
    report(*heading(arguments, model))
    for part in arguments.only:
        note(part)
        for line in globals()[part](arguments, model):
            report(line)


def parse():
    parser = arguments_of(__doc__.splitlines()[0])
    add = parser.add_argument
    add("-n", "--n", type=int, default=200, help="crystals a request")
    add("--mode", choices=("fast", "quality"), default="fast")
    add("--only", nargs="+", choices=PARTS, default=PARTS)
    add("--guidance", type=float, default=2.0, help="weight of property targets")
    add("--adapter", nargs="*", default=[], metavar="NAME=FILE", help="besides those that ship")
    add("--relax", type=int, default=40, help="crystals with planar nets that are relaxed, each net")
    add("--processes", type=int, default=os.cpu_count(), help="that relax")
    add("--packed", type=Path, help="folder of packed tables, or one packed (.npz): for `start`")
    return parser.parse_args()


def heading(arguments, model: Model) -> list[str]:
    """The protocol."""
    return [
        (
            f"Steering: {arguments.n} crystals a request, mode {arguments.mode}, seed {arguments.seed}, within "
            f"templates where not said otherwise, no relaxation but for planar nets"
        ),
        *model.facts(),
        machine(model.device),
        "valid     geometry as Heliodor's validity asks (distances, volume, cell), without charges",
        "obeyed    % of all asked for, with 95 % Wilson intervals",
        "",
        f"{'':<44}{'valid':>7}{'obeyed':>24}{'of the valid':>24}   ",
    ]


# --- elements, compositions, sizes ---


def elements(arguments, model: Model) -> Iterator[str]:
    """Chemical systems, numbers of elements and atoms, compositions: obeyed exactly or not at all."""
    asks = []
    for system in SYSTEMS:
        conditions = Conditions(elements=tuple(system.split("-")))
        asks.append(Ask(f"chemical system {system}", conditions, conditions.admits))
    conditions = Conditions(elements=("Li", "Mn", "Ni", "Co", "O"), require_all=False)
    asks.append(Ask("nothing outside Li-Mn-Ni-Co-O", conditions, conditions.admits))
    asks.append(Ask("3 elements", Conditions(), lambda c: len(c.elements) == 3, Request(n_elements=3)))
    asks.append(Ask("12 atoms", Conditions(max_atoms=12), lambda c: len(c) == 12, Request(min_atoms=12)))
    for formula, composition in FORMULAS.items():
        conditions = Conditions(composition=composition)
        asks.append(Ask(f"composition {formula}", conditions, conditions.admits))
        free = Request(symmetric=False)
        asks.append(Ask(f"composition {formula}, no symmetry", conditions, conditions.admits, free))
    for ask in asks:
        yield line(ask.name, proposals(arguments, model, ask), ask.obeyed)


# --- symmetry ---


def symmetry(arguments, model: Model) -> Iterator[str]:
    """Space groups and crystal systems as spglib finds them; a higher group holds the one asked for."""
    yield f"{f'achieved at {SYMPREC} angstrom by spglib:':<44}"
    asks = [(f"space group {g}", Conditions(), Request(spacegroups=(g,)), g) for g in GROUPS]
    system = Conditions(elements=("Li", "Ti", "O"))
    asks.append(("space group 12, Li-Ti-O", system, Request(spacegroups=(12,)), 12))
    for name, conditions, request, number in asks:
        ask = Ask(name, conditions, lambda c, g=number: relation(c, g) != "", request)
        made = proposals(arguments, model, ask)
        exact = sum(c is not None and relation(c, number) == "exact" for c in made)
        sound = [c for c in made if c is not None and is_valid(c)]
        kept = sum(relation(c, number) == "exact" for c in sound)
        yield line(ask.name, made, ask.obeyed) + (
            f"   exactly {percent(exact, len(made))} %, of the valid {percent(kept, len(sound))} %; "
            "the rest that obeyed: a higher group"
        )
    for name in ("cubic", "tetragonal", "monoclinic"):
        low, high = CRYSTAL_SYSTEMS[name]
        ask = Ask(
            f"crystal system {name}",
            Conditions(),
            lambda c, a=low, b=high: (found := group(c)) is not None and a <= found[0] <= b,
            Request(crystal_system=name),
        )
        yield line(ask.name, proposals(arguments, model, ask), ask.obeyed) + "   exactly this system"
    ask = Ask("above P1, none asked for", Conditions(), lambda c: (group(c) or (1,))[0] > 1)
    yield line(ask.name, proposals(arguments, model, ask), ask.obeyed)
    ask = Ask("above P1, no symmetry imposed", ask.conditions, ask.obeyed, Request(symmetric=False))
    yield line(ask.name, proposals(arguments, model, ask), ask.obeyed)


def relation(crystal: Crystal, asked: int) -> str:
    """ "exact", "higher" (as many operations or more, by a whole factor, of which the asked are some), or ""."""
    found = group(crystal)
    if found is None:
        return ""
    number, operations = found
    if number == asked:
        return "exact"
    # The crystal is made within the group asked for, so that a group with a multiple of its operations in the
    # same cell is one that holds it.
    return "higher" if operations > order(asked) and operations % order(asked) == 0 else ""


@lru_cache(maxsize=100_000)
def group(crystal: Crystal) -> tuple[int, int] | None:
    """(Space group number, operations in this cell) at `SYMPREC`; None where spglib has no answer."""
    import spglib

    cell = (crystal.lattice, crystal.frac_coords, crystal.atomic_numbers)
    try:
        found = spglib.get_symmetry_dataset(cell, symprec=SYMPREC)
    except spglib.error.SpglibError:
        return None
    return None if found is None else (int(found.number), len(found.rotations))


@lru_cache(maxsize=230)
def order(number: int) -> int:
    """Operations of a space group in its primitive cell: those of its point group."""
    import spglib

    hall = next(h for h in range(1, 531) if spglib.get_spacegroup_type(h).number == number)
    rotations = spglib.get_symmetry_from_database(hall)["rotations"]
    return len({rotation.tobytes() for rotation in rotations})


# --- planar nets ---


def planar(arguments, model: Model) -> Iterator[str]:
    """Nets of one element in a plane: as made, and after CHGNet has relaxed some of the valid ones."""
    yield f"{'planar nets, found within 0.1 bond lengths; other elements free:':<44}"
    for net, element in NETS.items():
        held = Request(planar=hold(net, element))
        ask = Ask(f"{net} of {element}", Conditions(), found_in(net, element), held)
        made = proposals(arguments, model, ask)
        yield line(ask.name, made, ask.obeyed)
        sound = [c for c in made if c is not None and is_valid(c)][: arguments.relax]
        relaxed = after_relaxation(sound, arguments.processes) if sound else []
        kept = sum(c is not None and ask.obeyed(c) for c in relaxed)
        done = sum(c is not None for c in relaxed)
        yield (
            f"{f'  {len(sound)} valid ones relaxed, {done} converged':<44}{'':>7}{'':>24}"
            f"{rate(kept, len(sound)):>24}   of those relaxed"
        )


def found_in(net: str, element: str) -> Callable[[Crystal], bool]:
    return lambda crystal: verify(crystal, net, element).found


def after_relaxation(crystals: list[Crystal], processes: int) -> list[Crystal | None]:
    """Relaxed by CHGNet; None where that failed or did not converge."""
    from heliodor.core.choices.relaxers import ChgnetChoice
    from heliodor.engines.mlip import MlipRelaxer

    relaxer = MlipRelaxer("chgnet", ChgnetChoice(kind="chgnet"), processes)
    try:
        results = {r.key: r for r in relaxer.relax(list({c.digest: c for c in crystals}.values()))}
    finally:
        relaxer.close()
    found = [results.get(c.digest) for c in crystals]
    return [r.crystal if isinstance(r, Relaxed) and r.converged else None for r in found]


# --- properties ---


def properties(arguments, model: Model) -> Iterator[str]:
    """Targets against none, by a judge that shares only the labels with the model."""
    given = dict(pair.split("=", 1) for pair in arguments.adapter)
    if missing := [path for path in given.values() if not Path(path).is_file()]:
        sys.exit(f"--adapter: there is no {', '.join(missing)}")
    known = {**{k: str(v) for k, v in shipped_adapters().items()}, **given}
    if not known:
        yield "properties: skipped, there is no adapter (--adapter NAME=FILE)"
        return
    free = proposals(arguments, model, Ask("", Conditions(), bool))
    for name, path in known.items():
        if name not in TARGETS:
            yield f"{name}: skipped, no target and no judge are known"
            continue
        yield f"{f'{name}, guidance {arguments.guidance:g}, by property_predictor.py:':<44}"
        for said, target, window in TARGETS[name]:
            ask = Ask(said, Conditions(), bool, Request(targets={path: target}))
            made = proposals(arguments, model, ask)
            for label, crystals in ((said, made), (f"  {said}, not asked for", free)):
                yield judged(label, name, crystals, window)


def judged(label: str, name: str, crystals: list[Crystal | None], window: tuple[float, float]) -> str:
    """A line with the share whose predicted property lies in the window, and the middle of them."""
    there = [c for c in crystals if c is not None]
    values = dict(zip(map(id, there), judge_of(name)(there), strict=True)) if there else {}
    return (
        line(label, crystals, lambda c: window[0] <= values[id(c)] <= window[1])
        + f"   median / mean {middle(values.values(), 2)}"
    )


@lru_cache(maxsize=4)
def judge_of(name: str):
    """The predictor of a property, learned once."""
    from property_predictor import predictor

    structure_table()
    note(f"learning the judge of {name}")
    return predictor(name)


# --- from a crystal ---


def start(arguments, model: Model) -> Iterator[str]:
    """Held-out crystals noised and made again, their elements kept: how far the results lie from them."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    same = StructureMatcher(0.2, 0.3, 5)
    loose = StructureMatcher(0.5, 0.5, 10, scale=False)
    table = packed_tables([structure_table()], arguments.packed)
    rows = np.flatnonzero(table.held_out & (table.n >= 4) & (table.n <= 12))
    rng = np.random.default_rng(arguments.seed)
    known = [crystal_at(table, int(i)) for i in rng.choice(np.sort(rows), STARTS, replace=False)]
    yield f"{f'noise on {STARTS} held-out crystals, elements kept; obeyed: still the same crystal (0.2/0.3/5)':<44}"
    for level in LEVELS:
        made, distance, kept = [], [], set()
        for k, crystal in enumerate(known):
            request = Request(start=(crystal,), level=level, keep_types=True)
            ask = Ask("", Conditions(), bool, request)
            for item in proposals(arguments, model, ask, n=max(1, arguments.n // STARTS), seed=k):
                made.append(item)
                if item is None:
                    continue
                rms = normalised_rms(loose, item, crystal)
                distance.append(None if rms is None else rms * spacing(item, crystal))
                if normalised_rms(same, item, crystal) is not None:
                    kept.add(id(item))
        far = sum(d is None for d in distance)
        yield line(f"level {level}", made, lambda c, kept=kept: id(c) in kept) + (
            f"   RMSD median / mean {middle(distance)} angstrom, {far} too far to tell"
        )


# --- shared ---


def proposals(
    arguments, model: Model, ask: Ask, *, n: int | None = None, seed: int = 0
) -> list[Crystal | None]:
    """What the generator makes of a request."""
    sampling = Sampling(arguments.mode, guidance=arguments.guidance, device=model.device)
    begin = time.perf_counter()
    made = draw(
        model.generator(ask.request, sampling),
        ask.conditions,
        n or arguments.n,
        arguments.seed + 1000 * seed,
    )
    note(f"  {ask.name or 'crystals'}: {len(made)} in {time.perf_counter() - begin:.1f} s")
    return made


@lru_cache(maxsize=1)
def validity() -> Validity:
    return Validity(charge_neutral=False)


def is_valid(crystal: Crystal) -> bool:
    return validity().check([crystal])[0].passed is True


def line(name: str, made: list[Crystal | None], obeyed: Callable[[Crystal], bool]) -> str:
    """One line of the table."""
    good = [c is not None and bool(obeyed(c)) for c in made]
    valid = [c is not None and is_valid(c) for c in made]
    both = sum(a and b for a, b in zip(good, valid, strict=True))
    return (
        f"{name:<44}{percent(sum(valid), len(made)):>7}{rate(sum(good), len(made)):>24}"
        f"{rate(both, sum(valid)):>24}"
    )


if __name__ == "__main__":
    main()
