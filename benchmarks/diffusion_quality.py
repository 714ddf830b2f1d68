"""What unconditional crystals are worth: judged by `heliodor screen` with relaxation, counted jointly.

    python benchmarks/diffusion_quality.py -n 1000 --out diffusion_quality
    python benchmarks/diffusion_quality.py -n 300 --weights a.safetensors --compare b.safetensors

Every share is over all that was asked of the generator. The crystals, the screening's ledger and its report
stay in --work; a run that was stopped goes on there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from diffusion_common import (
    Model,
    Report,
    arguments_of,
    machine,
    middle,
    normalised_rms,
    note,
    percent,
    rate,
    spacing,
    structure_table,
)

from heliodor.core.records import Candidate, Conditions, Reason
from heliodor.core.settings import load_settings
from heliodor.generators.diffusion.generator import Sampling
from heliodor.generators.diffusion.request import Request

SYMPREC = 0.1  # angstrom
# MatterGen's measure of what relaxation moves (Zeni et al., Nature 639, 624 (2025); evaluation code of 1.0.3):
# the matcher at 0.5/0.5/10 without rescaling, times the mean spacing; a pair that it cannot lay over one another
# counts as the largest value, 0.5 spacings.
LOOSE = {"ltol": 0.5, "stol": 0.5, "angle_tol": 10, "scale": False}
UNMATCHED = 0.5


def main() -> None:
    arguments = parse()
    table = structure_table()
    report = Report(arguments.out)
    models = [Model.of(arguments, w) for w in (arguments.weights, *arguments.compare)]
    judged, names = [], [model.weights.name for model in models]
    for model in models:
        digest = model.loaded[1].sha256[:10]
        kind = f"{arguments.mode}{'-free' if arguments.no_symmetry else ''}"
        kind += "-refined" if arguments.symmetrize else ""
        folder = arguments.work / f"{digest}-{kind}-{arguments.relaxer}-{arguments.n}-{arguments.seed}"
        folder.mkdir(parents=True, exist_ok=True)
        times = generate(model, arguments, folder / "generated.extxyz")
        judged.append(judge(folder, arguments.n, times, table, arguments))
    if arguments.calibrate:
        folder = arguments.work / f"table-{arguments.relaxer}-{arguments.calibrate}-{arguments.seed}"
        folder.mkdir(parents=True, exist_ok=True)
        known(table, arguments, folder / "generated.extxyz")
        judged.append(judge(folder, arguments.calibrate, {}, table, arguments))
        names.append("the table itself")
    report(*heading(arguments, models, table))
    report(*columns(judged, names))


def parse():
    parser = arguments_of(__doc__.splitlines()[0])
    add = parser.add_argument
    add("-n", "--n", type=int, default=1000, help="crystals asked for")
    add("--compare", type=Path, nargs="*", default=[], help="more checkpoints, judged alike")
    add("--no-symmetry", action="store_true", help="impose no space group")
    add(
        "--symmetrize", action="store_true", help="refine to the space group found (Sampling.symmetrize)"
    )
    add("--mode", choices=("fast", "quality"), default="fast")
    add("--relaxer", choices=("chgnet", "sevennet"), default="chgnet")
    add("--processes", type=int, default=os.cpu_count(), help="that relax")
    add(
        "--calibrate", type=int, default=0, metavar="N", help="also judge N random crystals of the table"
    )
    add("--work", type=Path, default=Path("diffusion_quality"), help="folder of crystals and ledgers")
    return parser.parse_args()


@dataclass
class Judged:
    """Counts of one model, over `n`."""

    n: int
    counts: Counter = field(default_factory=Counter)
    elements: Counter = field(default_factory=Counter)
    above: list[float] = field(default_factory=list)
    rmsd: list[float] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def judge(folder: Path, n: int, times: dict[str, float], table: Path, arguments) -> Judged:
    """Screen what lies in the folder, and count what the ledger says."""
    note(f"screening with relaxation in {folder}")
    times["screening"] = screen(folder / "generated.extxyz", folder / "screened", table, arguments)
    begin = time.perf_counter()
    found = count(folder / "screened", n, systems_of(table))
    found.seconds = {**times, **found.seconds, "the other numbers": time.perf_counter() - begin}
    return found


def known(table: Path, arguments, path: Path) -> None:
    """Crystals of the table as if they had been generated: what this judge says of real ones."""
    import pandas as pd
    from ase.io import write
    from crystals import crystals

    from heliodor.core.convert import to_atoms

    rows = pd.read_parquet(table).query("n_atoms <= 20")
    chosen = rows.sample(arguments.calibrate, random_state=arguments.seed)
    write(path, [to_atoms(c) for c in crystals(chosen)], format="extxyz")


def generate(model: Model, arguments, path: Path) -> dict[str, float]:
    """Write the crystals once; gives seconds and how many there are."""
    from heliodor.flows.write import writer

    facts = path.with_suffix(".json")
    if not facts.is_file():
        note(f"{model.weights}: generating {arguments.n}")
        request = Request(symmetric=not arguments.no_symmetry)
        sampling = Sampling(arguments.mode, device=model.device, symmetrize=arguments.symmetrize)
        begin = time.perf_counter()
        items = model.generator(request, sampling).generate(
            arguments.n, seed=arguments.seed, conditions=Conditions()
        )
        with writer(path) as write:
            for item in items:
                if isinstance(item, Candidate):
                    write(item)
        facts.write_text(json.dumps({"generating": time.perf_counter() - begin}))
    return json.loads(facts.read_text())


def screen(crystals: Path, out: Path, table: Path, arguments) -> float:
    """`heliodor screen` as users run it; wall seconds of the run that finished it."""
    spent = out.with_suffix(".seconds")
    if spent.is_file():
        return float(spent.read_text())
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "HELIODOR_LEDGER"))}
    command = [sys.executable, "-m", "heliodor.cli", "screen", str(crystals.resolve())]
    command += ["--out", str(out.resolve()), "--relaxer", arguments.relaxer]
    command += ["--reference", str(table.resolve()), "--json"]
    begin = time.perf_counter()
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        cwd=out.parent,
        env={**kept, "HELIODOR_WORKERS": str(arguments.processes)},
    )
    if done.returncode:
        sys.exit(f"heliodor screen failed ({done.returncode}):\n{done.stderr[-2000:]}")
    total = time.perf_counter() - begin
    if not (out / "summary.json").is_file():
        sys.exit(f"heliodor screen left no summary in {out}")
    spent.write_text(str(total))
    return total


@lru_cache(maxsize=1)
def systems_of(table: Path) -> frozenset[frozenset[int]]:
    """The chemical systems, as sets of atomic numbers, in which the table has a phase of all elements."""
    import pandas as pd

    rows = pd.read_parquet(table, columns=["atomic_numbers"])
    return frozenset(frozenset(map(int, z)) for z in rows["atomic_numbers"])


def count(folder: Path, n: int, systems: frozenset[frozenset[int]]) -> Judged:
    """Counts per candidate, from the ledger of the screening."""
    from heliodor.flows.build import reopen
    from heliodor.tasks.table import records

    ledger, _ = reopen(folder, load_settings())
    found = Judged(n)
    for record in records(ledger):
        if record.candidate is None:
            continue
        tally(found, record, systems)
    return found


def tally(found: Judged, record, systems: frozenset[frozenset[int]]) -> None:
    """Add one candidate."""
    proposed = record.candidate.crystal
    relaxed = record.relax.crystal if record.relax else None
    screened = record.screen.data if record.screen else {}
    validity = screened.get("validity", {})
    sound = bool(validity.get("passed")) or validity.get("reason") == Reason.CHARGE
    new = bool(record.verdict("uniqueness") and record.verdict("novelty"))
    facts = {
        "made": True,
        "sound": sound,
        "balanced": balanced(proposed),
        "valid": record.valid,
        "unique": verdict(record.screen, "uniqueness"),
        "novel": verdict(record.screen, "novelty"),
        "unique and novel": verdict(record.screen, "uniqueness") and verdict(record.screen, "novelty"),
        "relaxed": bool(record.converged),
        "new": sound and new and record.assess is not None,
        "judged": record.hull is not None,
    }
    for threshold in (0.0, 0.1):
        low = bool(record.hull and record.hull["energy_above_hull"] <= threshold)
        facts[f"stable {threshold}"] = low
        facts[f"sun {threshold}"] = sound and new and low
        covered = frozenset(map(int, proposed.atomic_numbers)) in systems
        facts[f"sun and covered {threshold}"] = sound and new and low and covered
        facts[f"sun and balanced {threshold}"] = bool(record.sun(threshold))
    if sound:
        facts["p1 before"] = group(proposed) == 1
    if relaxed is not None and record.converged:
        facts["p1 after"] = group(relaxed) == 1
        found.rmsd.append(moved(proposed, relaxed))
    if record.hull:
        found.above.append(record.hull["energy_above_hull"])
    if record.relax:
        found.seconds["relaxing, summed over processes"] = found.seconds.get(
            "relaxing, summed over processes", 0.0
        ) + record.relax.data.get("seconds", 0.0)
    found.counts.update(name for name, true in facts.items() if true)
    found.elements[len(proposed.elements)] += 1


def verdict(outcome, check: str) -> bool:
    return bool(outcome and outcome.data.get(check, {}).get("passed"))


def group(crystal) -> int | None:
    """Space group number at `SYMPREC`; None where spglib has no answer."""
    from heliodor.report.cif import symmetry

    found = symmetry(crystal, SYMPREC)
    return found[0] if found else None


def balanced(crystal) -> bool:
    """SMACT's own validity with its defaults: charge balance, Pauling test, alloys pass."""
    from smact.screening import smact_validity

    return bool(smact_validity(crystal.formula))


def moved(proposed, relaxed) -> float:
    """RMS displacement by relaxation in angstrom, after the best translation; see `LOOSE`."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    found = normalised_rms(StructureMatcher(**LOOSE), relaxed, proposed)
    return (UNMATCHED if found is None else found) * spacing(relaxed, proposed)


def heading(arguments, models, table: Path) -> list[str]:
    """The protocol."""
    import pandas as pd

    rows = pd.read_parquet(table, columns=["n_atoms", "spacegroup", "atomic_numbers"])
    small = rows.query("n_atoms <= 20")
    kinds = Counter(len(set(z)) for z in small["atomic_numbers"])
    symmetry = "no symmetry imposed" if arguments.no_symmetry else "within templates"
    refined = ", refined at 0.1 angstrom" if arguments.symmetrize else ""
    lines = [
        (
            f"Unconditional crystals: {arguments.n} asked for, mode {arguments.mode}, {symmetry}{refined}, "
            f"seed {arguments.seed}"
        ),
        *(line for model in models for line in model.facts()),
        machine(models[0].device),
        (
            f"judged    by `heliodor screen`, relaxer {arguments.relaxer} (fmax 0.05 eV/angstrom, at most 300 "
            f"steps), {arguments.processes} processes"
        ),
        f"hull      {table.name}: {len(rows):,} phases (formation energies), a subset of the Materials Project's",
        "          hull: energies above it are lower bounds, shares of stable crystals upper bounds",
        "          (a system that the hull knows: it holds a phase of exactly these elements; elsewhere a crystal",
        "          competes with its subsystems only, and with pure elements where those are not there either)",
        f"novelty   against all {len(rows):,} structures of that table; matcher StructureMatcher 0.2/0.3/5",
        "unique    no earlier candidate matches, same matcher; S.U.N. asks both before and after relaxation",
        "shares    in %, of all asked for, counted jointly per candidate, with 95 % Wilson intervals",
        f"the table itself, {len(small):,} crystals of at most 20 atoms: P1 "
        f"{percent(int((small['spacegroup'] == 1).sum()), len(small))} %, elements "
        + ", ".join(f"{k}: {percent(v, len(small))}" for k, v in sorted(kinds.items())),
    ]
    return [*lines, ""]


def columns(judged: list[Judged], names: list[str]) -> list[str]:
    """One column per checkpoint."""

    def share(name: str) -> list[str]:
        return [rate(j.counts[name], j.n) for j in judged]

    body = [
        ("", [name[-24:] for name in names]),
        ("crystals made", share("made")),
        ("sound geometry (distances, volume, cell)", share("sound")),
        ("charge-balanced by SMACT, as published", share("balanced")),
        ("valid as Heliodor asks (sound, balanced)", share("valid")),
        ("unique, as proposed", share("unique")),
        ("novel, as proposed", share("novel")),
        ("unique and novel, as proposed", share("unique and novel")),
        ("relaxation converged", share("relaxed")),
        ("unique and novel, before and after", share("new")),
        ("energy judged", share("judged")),
        ("stable: E above hull <= 0", share("stable 0.0")),
        ("stable: E above hull <= 0.1 eV/atom", share("stable 0.1")),
        ("S.U.N. at 0 (sound, as published)", share("sun 0.0")),
        ("S.U.N. at 0.1", share("sun 0.1")),
        ("S.U.N. at 0, and charge-balanced", share("sun and balanced 0.0")),
        ("S.U.N. at 0.1, and charge-balanced", share("sun and balanced 0.1")),
        ("S.U.N. at 0, in a system the hull knows", share("sun and covered 0.0")),
        ("S.U.N. at 0.1, in a system the hull knows", share("sun and covered 0.1")),
        ("E above hull, median / mean, eV/atom", [middle(j.above) for j in judged]),
        ("RMSD by relaxation, median / mean, angstrom", [middle(j.rmsd) for j in judged]),
        ("P1 before, of the sound", [percent(j.counts["p1 before"], j.counts["sound"]) for j in judged]),
        (
            "P1 after, of the converged",
            [percent(j.counts["p1 after"], j.counts["relaxed"]) for j in judged],
        ),
    ]
    parts = list(dict.fromkeys(part for j in judged for part in j.seconds))
    kinds = sorted({k for j in judged for k in j.elements})
    body += [
        (f"{k} elements", [percent(j.elements[k], j.counts["made"]) for j in judged]) for k in kinds
    ]
    body += [(f"seconds {part}", [f"{j.seconds.get(part, 0.0):.1f}" for j in judged]) for part in parts]
    return [f"{name:<46}" + "".join(f"{value:>26}" for value in values) for name, values in body]


if __name__ == "__main__":
    main()
