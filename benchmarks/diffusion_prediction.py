"""Structure prediction: the composition is given, the crystal is asked for, and is compared with the known one.

    python benchmarks/diffusion_prediction.py -n 200 --tries 20 --processes 2 --out diffusion_prediction

Formulas are of crystals that `Packed.held_out` keeps from training, and no crystal of the training part of any
given table has their reduced composition. Templates come from the training part only. Nothing is relaxed.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from crystals import DATA
from diffusion_common import (
    STEPS,
    Model,
    Report,
    arguments_of,
    crystal_at,
    machine,
    normalised_rms,
    note,
    packed_tables,
    rate,
    structure_table,
)

from heliodor.core.crystal import Crystal
from heliodor.core.elements import SYMBOLS
from heliodor.core.errors import InputError
from heliodor.core.records import Conditions
from heliodor.generators.diffusion.data import Packed
from heliodor.generators.diffusion.request import Request
from heliodor.generators.diffusion.steering import Planner
from heliodor.generators.diffusion.symmetry import TemplateLibrary

# The field's: Jiao et al. (DiffCSP, arXiv:2309.04475), Miller et al. (FlowMM, arXiv:2406.04713).
MATCHER = {"ltol": 0.3, "stol": 0.5, "angle_tol": 10}
BATCH = {"cpu": 64, "cuda": 1024}
_TOGETHER = {"cpu": 16, "cuda": 256}  # formulas planned at once: crystals of like size share a batch
CASES = {
    "half in templates, Z given": {"symmetric": True},
    "no symmetry, Z given": {"symmetric": False},
    "half in templates, Z free": {"symmetric": True, "free_z": True},
}


@dataclass(frozen=True)
class Question:
    """One formula and its known crystal. `number` seeds the tries."""

    number: int
    known: Crystal


@dataclass(frozen=True)
class Job:
    """A share of the questions, for one process."""

    weights: Path
    templates: Path
    device: str
    mode: str
    seed: int
    tries: int
    case: str
    questions: tuple[Question, ...]


def main() -> None:
    arguments = parse()
    report = Report(arguments.out)
    tables = arguments.tables or [structure_table(), DATA / "wbm.parquet"]
    tables = [path for path in tables if path.is_file()]
    table = packed_tables(tables[:1], arguments.packed)
    others = [packed_tables([path], arguments.cache) for path in tables[1:]]
    chosen = held_out_formulas(table, others, arguments.n, arguments.seed)
    questions = tuple(Question(k, crystal_at(table, i)) for k, i in enumerate(chosen))
    with tempfile.TemporaryDirectory() as folder:
        arguments.templates = Path(folder) / "templates.npz"
        training = np.flatnonzero(~table.held_out)
        TemplateLibrary.from_templates(table.template(int(i)) for i in training).save(
            arguments.templates
        )
        model = Model.of(arguments)
        report(*heading(arguments, model, tables, questions))
        for case in list(CASES)[: 3 if arguments.free_z else 2]:
            begin = time.perf_counter()
            found = ask(arguments, case, model.device, questions)
            report(row(case, found, time.perf_counter() - begin))


def parse():
    parser = arguments_of(__doc__.splitlines()[0])
    add = parser.add_argument
    add("-n", "--n", type=int, default=200, help="formulas")
    add("--tries", type=int, default=20, help="crystals for each")
    add("--mode", choices=("fast", "quality"), default="fast")
    add("--free-z", action="store_true", help="also with the number of formula units left open")
    add("--processes", type=int, default=1)
    add("--tables", type=Path, nargs="*", help="training tables; formulas come from the first")
    add("--packed", type=Path, help="folder of packed tables, or the first table packed (.npz)")
    arguments = parser.parse_args()
    arguments.cache = arguments.packed if arguments.packed and not arguments.packed.suffix else None
    return arguments


def held_out_formulas(table: Packed, others: list[Packed], n: int, seed: int) -> list[int]:
    """Rows of `n` held-out crystals of different compositions that no training crystal has."""
    known = {c for t in (table, *others) for c in compositions(t, np.flatnonzero(~t.held_out))}
    rows = np.flatnonzero(table.held_out)
    rows = rows[np.argsort(table.ids[rows])]
    rows = np.random.default_rng(seed).permutation(rows)
    chosen: dict[tuple, int] = {}
    for i, composition in zip(rows, compositions(table, rows), strict=True):
        if composition not in known:
            chosen.setdefault(composition, int(i))
    return list(chosen.values())[:n]


def compositions(table: Packed, rows) -> list[tuple]:
    """Reduced compositions, ((atomic number, count), ...)."""
    found = []
    for i in rows:
        numbers, counts = np.unique(table.numbers[i, : table.n[i]], return_counts=True)
        factor = int(np.gcd.reduce(counts))
        found.append(tuple(zip(numbers.tolist(), (counts // factor).tolist(), strict=True)))
    return found


def ask(arguments, case: str, device: str, questions) -> list[list[float | None]]:
    """For each question the RMS of each try, or None where it does not match."""
    shares = [questions[k :: arguments.processes] for k in range(arguments.processes)]
    jobs = [
        Job(
            arguments.weights,
            arguments.templates,
            device,
            arguments.mode,
            arguments.seed,
            arguments.tries,
            case,
            share,
        )
        for share in shares
        if share
    ]
    if len(jobs) == 1:
        answers = [answer(jobs[0])]
    else:
        with get_context("spawn").Pool(len(jobs)) as pool:
            answers = pool.map(answer, jobs)
    merged = {k: v for part in answers for k, v in part.items()}
    return [merged[q.number] for q in questions]


def answer(job: Job) -> dict[int, list[float | None]]:
    """One process's share: plans of several formulas side by side, sorted by size."""
    import torch
    from pymatgen.analysis.structure_matcher import StructureMatcher

    from heliodor.generators.diffusion.checkpoint import load_process
    from heliodor.generators.diffusion.sampler import sample

    torch.set_num_threads(1)
    process, _ = load_process(job.weights, job.device)
    library = TemplateLibrary.load(job.templates)
    matcher = StructureMatcher(**MATCHER)
    found: dict[int, list[float | None]] = {q.number: [None] * job.tries for q in job.questions}
    together = _TOGETHER[job.device]
    for begin in range(0, len(job.questions), together):
        some = job.questions[begin : begin + together]
        plans = [item for q in some for item in plans_of(job, q, process, library)]
        plans.sort(key=lambda item: len(item[2]))
        seeds = [(job.seed, q.number, attempt, 1) for q, attempt, _ in plans]
        made = sample(
            process, [plan for *_, plan in plans], seeds, STEPS[job.mode], batch=BATCH[job.device]
        )
        for k, crystal in made:
            q, attempt, _ = plans[k]
            if isinstance(crystal, Crystal):
                found[q.number][attempt] = normalised_rms(matcher, crystal, q.known)
        note(f"{job.case}: {some[-1].number + 1} formulas")
    return found


def plans_of(job: Job, question: Question, process, library) -> list[tuple]:
    """(question, try, plan); none where the request cannot be met, which counts as no match."""
    known, case = question.known, CASES[job.case]
    formula = tuple((SYMBOLS[z], count) for z, count in known.reduced_composition)
    free = case.get("free_z", False)
    limit = process.network.shape.max_atoms
    conditions = Conditions(composition=formula, max_atoms=limit if free else len(known))
    request = Request(symmetric=case["symmetric"], min_atoms=1 if free else len(known))
    try:
        planner = Planner(conditions, request, library, process.seen.cpu().numpy(), limit)
    except InputError as error:
        note(f"{known.formula}: {error.message}")
        return []
    rngs = (np.random.default_rng([job.seed, question.number, t, 0]) for t in range(job.tries))
    return [(question, t, planner.plan(rng)) for t, rng in enumerate(rngs)]


def heading(arguments, model: Model, tables, questions) -> list[str]:
    """The protocol."""
    sizes = np.array([len(q.known) for q in questions])
    return [
        (
            f"Structure prediction of {len(questions)} held-out formulas, {arguments.tries} tries each, "
            f"mode {arguments.mode}, seed {arguments.seed}, no relaxation"
        ),
        *model.facts(),
        machine(model.device) + f"; {arguments.processes} processes",
        f"formulas  of crystals of {tables[0].name} kept from training (5 %, by id), in no training crystal of "
        + ", ".join(path.name for path in tables),
        (
            f"          {sizes.min()} to {sizes.max()} atoms in the primitive cell, median {np.median(sizes):.0f}; "
            "one crystal a composition"
        ),
        "templates of the training crystals only; an arrangement is drawn for each try, none is told",
        "Z given   the number of atoms in the cell is that of the known crystal, as in DiffCSP and FlowMM",
        "matcher   pymatgen StructureMatcher ltol 0.3, stol 0.5, angle_tol 10; no validity filter",
        "match     % of formulas, with 95 % Wilson intervals; RMSD in units of (volume per atom)^(1/3), mean",
        "          over the matched formulas: of the first try, and of the best of all",
        "",
        (
            f"{'':<28}{'match, 1 try':>22}{'RMSD':>8}{f'match, {arguments.tries} tries':>24}{'RMSD':>8}"
            f"{'of all tries':>14}{'seconds':>9}"
        ),
    ]


def row(case: str, found: list[list[float | None]], seconds: float) -> str:
    """One line of the table."""
    first = [tries[0] for tries in found if tries[0] is not None]
    best = [min(there) for tries in found if (there := [r for r in tries if r is not None])]
    every = [r is not None for tries in found for r in tries]
    return (
        f"{case:<28}{rate(len(first), len(found)):>22}{_mean(first):>8}{rate(len(best), len(found)):>24}"
        f"{_mean(best):>8}{100 * np.mean(every):>12.1f} %{seconds:>9.0f}"
    )


def _mean(values: list[float]) -> str:
    return f"{np.mean(values):.4f}" if values else "-"


if __name__ == "__main__":
    main()
