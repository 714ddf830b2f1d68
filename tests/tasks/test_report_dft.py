"""Verdicts by DFT in report and table, from outcomes as `verdict` makes them of made-up energies."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from pymatgen.core import Composition, Lattice, Structure

from heliodor.core.campaign import parse_campaign
from heliodor.core.convert import from_structure
from heliodor.core.crystal import Crystal
from heliodor.core.database import Database
from heliodor.core.elements import ATOMIC_NUMBERS
from heliodor.core.ledger import Ledger, Work
from heliodor.core.levels import Level
from heliodor.core.records import (
    Candidate,
    DftResult,
    DftTicket,
    Failure,
    Origin,
    Outcome,
    Reason,
    Stage,
    Status,
)
from heliodor.flows import verify_finalists
from heliodor.report.html import render
from heliodor.report.model import ReportData
from heliodor.tasks.columns import columns_of
from heliodor.tasks.outputs import write_table_of
from heliodor.tasks.report_crystals import crystal_rows
from heliodor.tasks.report_dft import dft_data, level_in_words
from heliodor.tasks.report_funnel import funnel
from heliodor.tasks.table import Record, records, row
from heliodor.tasks.verdicts import verdict_row
from heliodor.tasks.verify import Competitor, Plan, verdict
from heliodor.validators.hull import ELEMENT_ID
from heliodor.validators.level_hull import LevelHull
from heliodor.validators.reference_embedded import EmbeddedReference

PBE = Level.of(
    "abinit-9.6.2",
    "PBE",
    "own",
    {
        "pseudopotentials": {
            "Mg": ["Mg.PBE-JTH.xml", "a" * 64],
            "O": ["O.PBE-JTH.xml", "b" * 64],
        },
        "pseudopotential_set": "gpaw-data 1.0.1",
        "family": "PAW",
        "cutoff_eV": 680.285,
        "double_grid_eV": None,
        "kpoint_density": 1000,
    },
)
ELEMENTS = {"Li": -204.1, "Mg": -450.3, "Al": -61.2, "Ti": -1580.4, "O": -432.8}  # eV/atom
OXIDES = {  # material id, formation energy by the level in eV/atom
    "Li2O": ("mp-1960", -1.98),
    "MgO": ("mp-1265", -2.83),
    "Al2O3": ("mp-1143", -3.11),
    "TiO2": ("mp-2657", -3.15),
}


@cache
def perovskite(a_site: str, b_site: str, length: float) -> Crystal:
    """A cubic perovskite, ABO3."""
    return from_structure(
        Structure.from_spacegroup(
            "Pm-3m",
            Lattice.cubic(length),
            [a_site, b_site, "O"],
            [[0, 0, 0], [1 / 2] * 3, [1 / 2, 1 / 2, 0]],
        )
    )


def spread(formula: str) -> Crystal:
    """A crystal of a composition; where the atoms are does not matter."""
    numbers = [ATOMIC_NUMBERS[e.symbol] for e, n in Composition(formula).items() for _ in range(int(n))]
    n = len(numbers)
    return Crystal(Lattice.cubic((11 * n) ** (1 / 3)).matrix, [[i / n] * 3 for i in range(n)], numbers)


def computed(crystal: Crystal, formation: float, path: str, level: Level = PBE) -> DftResult:
    energy = sum(ELEMENTS[Composition(s).elements[0].symbol] * n for s, n in amounts(crystal).items())
    return DftResult(
        key=crystal.digest,
        input_digest=crystal.digest[::-1],
        level=level,
        crystal=crystal,
        energy=energy + formation * len(crystal),
        max_force=0.0031,
        max_stress=0.00042,
        converged=True,
        steps=9,
        magnetization=0.0,
        band_gap=4.71,
        seconds=412.0,
        attempts=2,
        mended=("slow_mixing",),
        path=path,
    )


def amounts(crystal: Crystal) -> dict[str, int]:
    symbols = [s for s in crystal.elements for z in crystal.atomic_numbers if ATOMIC_NUMBERS[s] == z]
    return {s: symbols.count(s) for s in crystal.elements}


def ticket_of(result: DftResult) -> DftTicket:
    return DftTicket(result.key, "abinit", result.path, result.input_digest, "uuid")


def products(formula: str) -> list[tuple[str, str, float]]:
    """The oxides that a perovskite decomposes into, by fraction of its atoms."""
    first, second = re.findall(r"[A-Z][a-z]?", formula)[:2]
    names = [name for name in OXIDES if name.startswith((first, second))]
    return [(name, OXIDES[name][0], 1 / len(names)) for name in names]


def verified(
    slot: int, sites: tuple[str, str], mlip: float, dft: float | Failure, folder: Path | str = "/runs/a"
) -> Record:
    """A SUN crystal that the potential puts `mlip`, DFT about `dft` eV/atom above the hull."""
    crystal = perovskite(*sites, 3.9)
    formula = crystal.formula
    hull = {
        "energy_above_hull": max(0.0, mlip),
        "decomposition_energy": mlip,
        "formation_energy_per_atom": -3.0 + mlip,
        "decomposition": products(formula),
        "level": "chgnet-0.3.0",
        "corrections": "MP2020 (in the potential)",
        "reference": "embedded (abc)",
    }
    passed = {"passed": True}
    candidate = Candidate(crystal, Origin("substitution", "1", 0, slot, "perovskite"))
    assess = Outcome(
        slot,
        Stage.ASSESS,
        Status.PASSED,
        data={"hull": hull, "uniqueness": passed, "novelty": passed},
    )
    phases = [(s, ELEMENT_ID, spread(s * 2), 0.0) for s in crystal.elements]
    phases += [(name, ident, spread(name), OXIDES[name][1]) for name, ident, _ in products(formula)]
    ended: dict[str, DftResult | Failure] = {}
    competitors = []
    for name, ident, structure, formation in phases:
        result = computed(structure, formation, f"{folder}/dft/{name}-{structure.digest[:12]}")
        ended[result.input_digest] = result
        origin = "reference" if ident == ELEMENT_ID else "prototype, recognised by embedded"
        competitors.append(Competitor(ident, name, origin, ticket_of(result)))
    path = f"{folder}/dft/{formula}-{crystal.digest[:12]}"
    flat = LevelHull(PBE, ended.items()).judge(computed(crystal, 0.0, path))
    height = 0.0 if isinstance(dft, Failure) else dft
    own = computed(crystal, height - flat.decomposition_energy, path)
    own = replace(own, crystal=perovskite(*sites, 3.93))
    ended[own.input_digest] = dft if isinstance(dft, Failure) else own
    plan = Plan(Work(slot, candidate, assess), crystal, hull, ticket_of(own), tuple(competitors))
    screen = {"validity": passed, "uniqueness": passed, "novelty": passed}
    return Record(
        slot,
        generate=Outcome(slot, Stage.GENERATE, Status.PASSED),
        candidate=candidate,
        screen=Outcome(slot, Stage.SCREEN, Status.PASSED, data=screen),
        relax=Outcome(slot, Stage.RELAX, Status.PASSED, crystal=crystal),
        assess=assess,
        verify=verdict(plan, ended, EmbeddedReference(), 0.1),
    )


def all_records(folder: Path | str = "/runs/a") -> list[Record]:
    lost = Failure("k", Reason.DFT_NOT_CONVERGED, "the electrons did not converge in 60 steps <SCF>")
    return [
        verified(3, ("Mg", "Ti"), 0.012, -0.03, folder),
        verified(7, ("Li", "Ti"), -0.034, 0.045, folder),
        verified(8, ("Li", "Al"), 0.061, 0.19, folder),
        verified(11, ("Mg", "Al"), 0.08, lost, folder),
        replace(verified(12, ("Al", "Ti"), 0.02, 0.0, folder), verify=None),
    ]


def words(page: str) -> str:
    body = page[page.index("<body>") :]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body))


def page_of(found: list[Record], folder: Path) -> str:
    from datetime import UTC, datetime

    data = ReportData(
        name="a",
        seed=0,
        space="Li-Mg-Al-Ti-O",
        created_at=datetime(2026, 11, 21, tzinfo=UTC),
        proposed=len(found),
        sun=len(found),
        funnel=funnel(found, (Stage.RELAX, Stage.VERIFY), 0.1),
        rows=crystal_rows((), found, 0.1),
        dft=dft_data(found, folder, 0.1),
    )
    return render(data)


def test_before_anything_is_computed_there_is_no_section(tmp_path):
    found = [replace(r, verify=None) for r in all_records()]
    assert dft_data(found, tmp_path, 0.1) is None
    assert 'id="dft"' not in page_of(found, tmp_path)
    assert not any("DFT" in step.label for step in funnel(found, (Stage.RELAX,), 0.1))


def test_cards_are_best_first_with_the_numbers_of_both(tmp_path):
    data = dft_data(all_records(tmp_path), tmp_path, 0.1)
    assert [(c.slot, c.verdict) for c in data.cards] == [
        (3, "confirmed"),
        (7, "metastable"),
        (8, "refuted"),
    ]
    assert [(f.slot, f.reason) for f in data.failures] == [(11, "dft_not_converged")]
    best = data.cards[0]
    assert best.decomposition_energies == (pytest.approx(0.012), pytest.approx(-0.03))
    above, signed, formation, volume = best.compared
    assert (above.potential, above.dft) == (pytest.approx(0.012), 0.0)
    assert (signed.potential, signed.dft) == (pytest.approx(0.012), pytest.approx(-0.03))
    assert formation.dft == pytest.approx(2 / 5 * -2.83 + 3 / 5 * -3.15 - 0.03)
    assert volume.dft / volume.potential == pytest.approx((3.93 / 3.9) ** 3)
    shares = {p.formula: p.share for p in best.phases}
    # MgTiO3 = MgO + TiO2: 2 and 3 of its 5 atoms.
    assert shares["TiO2"] == pytest.approx(3 / 5)
    assert shares["Mg"] is None


def test_on_the_hull_of_the_reference_nothing_else_was_computed(tmp_path):
    record = verified(3, ("Mg", "Ti"), 0.012, -0.03)
    hull = record.verify.data["hull"] | {"reference": "mp 2026", "corrections": "MP2020 (added)"}
    data = record.verify.data | {"phases": [], "hull": hull | {"uncertain": True}}
    found = replace(record, verify=replace(record.verify, data=data))
    [card] = dft_data([found], tmp_path, 0.1).cards
    assert {(p.formula, p.energy_per_atom, p.origin) for p in card.phases} == {
        ("MgO", None, "mp 2026"),
        ("TiO2", None, "mp 2026"),
    }
    assert "MP2020 (added), unreliable for this crystal" in card.hull
    assert "unreliable for this crystal" in words(page_of([found], tmp_path))


def test_a_folder_is_linked_where_it_lies_beside_the_report(tmp_path):
    records = all_records(tmp_path / "elsewhere")
    moved = dft_data(records, tmp_path, 0.1).cards[0]
    assert moved.folder.startswith(str(tmp_path / "elsewhere"))
    here = tmp_path / "dft" / Path(moved.folder).name
    here.mkdir(parents=True)
    assert dft_data(records, tmp_path, 0.1).cards[0].folder == moved.folder  # nothing was run here
    (here / "result.json").write_text("{}")
    assert dft_data(records, tmp_path, 0.1).cards[0].folder == f"dft/{Path(moved.folder).name}"


def test_the_page_names_the_level_and_tells_the_error(tmp_path):
    text = words(page_of(all_records(tmp_path), tmp_path))
    errors = [0.012 + 0.03, -0.034 - 0.045, 0.061 - 0.19]
    for wanted in (
        PBE.name,
        "680.285 eV",
        "Mg: Mg.PBE-JTH.xml, O: O.PBE-JTH.xml",
        "phases computed at this level",
        "2 (mended: slow mixing)",
        "0.0031 eV/Å",
        "7 min",
        "dft not converged : the electrons did not converge in 60 steps &lt;SCF&gt;",
        f"{sum(map(abs, errors)) / 3:.3f}",
        f"{-sum(errors) / 3:.3f} eV/atom too low",
    ):
        assert wanted in text, wanted


def test_the_funnel_ends_with_what_dft_says():
    last = funnel(all_records(), (Stage.RELAX, Stage.VERIFY), 0.1)[-1]
    assert (last.label, last.count) == ("stable by DFT, ≤ 0.1 eV/atom", 2)
    assert (dict(last.dropped), dict(last.failed)) == ({"above hull": 1}, {"dft not converged": 1})


def test_columns_of_dft_are_there_only_where_the_campaign_has_it(tmp_path):
    records = all_records()
    write_table_of(records, columns_of((), []), tmp_path)
    assert not [c for c in pd.read_parquet(tmp_path / "crystals.parquet") if c.startswith("dft")]
    write_table_of(records, columns_of((), [], by_dft=True), tmp_path)
    table = pd.read_parquet(tmp_path / "crystals.parquet").set_index("slot")
    described = json.loads((tmp_path / "columns.json").read_text())
    assert [c["name"] for c in described] == ["slot", *table.columns]
    said = table["dft_verdict"].fillna("not computed").to_list()
    assert said == ["confirmed", "metastable", "refuted", "failed", "not computed"]
    assert table.loc[3, "dft_energy_above_hull"] == 0
    assert table.loc[3, "energy_above_hull"] == pytest.approx(0.012)
    assert table.loc[3, "dft_level_digest"] == PBE.digest
    assert table.loc[[11, 12], "dft_energy_per_atom"].isna().all()
    assert table["dft_failure"].dropna().to_dict() == {
        11: "dft not converged: the electrons did not converge in 60 steps <SCF>"
    }
    assert table["dft_band_gap"].dtype == "float64"


def test_a_campaign_that_only_may_compute_has_the_columns_empty(tmp_path):
    records = [replace(r, verify=None) for r in all_records()]
    write_table_of(records, columns_of((), [], by_dft=True), tmp_path)
    table = pd.read_parquet(tmp_path / "crystals.parquet")
    assert table["dft_verdict"].isna().all()
    assert table["dft_max_force"].isna().all()


def test_every_setting_of_a_level_is_said():
    settings = {"encut": 520.0, "incar": "c" * 64}
    said = level_in_words(Level.of("vasp", "PBE/PBE+U", "GGA_GGA+U", settings))
    assert ("plane-wave cutoff", "520 eV") in said
    assert ("incar", "c" * 12) in said
    assert ("hull", "the Materials Project's (GGA/GGA+U)") in said


def test_a_later_failure_leaves_the_verdict_and_is_told(tmp_path):
    record = verified(3, ("Mg", "Ti"), 0.012, -0.03)
    data = {"detail": "out of memory", "engine": "gpaw"}
    failed = Outcome(3, Stage.VERIFY, Status.FAILED, Reason.DFT_KILLED, 2, data)
    ledger = Ledger(
        Database(f"sqlite:///{tmp_path / 'ledger.db'}"),
        parse_campaign({"name": "a", "generator": {"kind": "random"}}),
    )
    ledger.add([(3, record.candidate)], ("p", {}))
    ledger.record([record.screen, record.relax, record.assess, record.verify, failed], ("p", {}))
    [found] = records(ledger)
    assert (found.verify.attempt, found.verify_failed.attempt) == (1, 2)
    said = row(found)
    assert said["dft_verdict"] == "confirmed"
    assert said["dft_energy_per_atom"] is not None
    told = "a later calculation by gpaw failed: dft killed: out of memory"
    assert said["dft_failure"] == told
    [card] = dft_data([found], tmp_path, 0.1).cards
    assert card.verdict == "confirmed"
    assert told in words(page_of([found], tmp_path))
    shown = verdict_row(found)
    assert (shown["verdict"], shown["detail"]) == ("confirmed", told)
    assert funnel([found], (Stage.RELAX, Stage.VERIFY), 0.1)[-1].count == 1
    # A new verdict takes its place, and there is no failure after it.
    ledger.record([replace(record.verify, attempt=3)], ("p", {}))
    [found] = records(ledger)
    assert (found.verify.attempt, found.verify_failed) == (3, None)


class OneLevel:
    """An engine of one level, `PBE`."""

    name = "gpaw"

    def level(self, elements):
        return PBE


def test_what_is_left_to_do_after_a_failure(monkeypatch):
    """The next attempt comes after the last one, for the ledger keeps the first of a number."""
    monkeypatch.setattr(verify_finalists, "calculator", lambda context: context.engine)
    context = SimpleNamespace(engine=OneLevel(), attempts=3, campaign=SimpleNamespace(runs_dft=True))
    record = verified(3, ("Mg", "Ti"), 0.012, -0.03)
    failed = Outcome(3, Stage.VERIFY, Status.FAILED, Reason.DFT_KILLED, 2, {"engine": "gpaw"})
    again = replace(record, verify_failed=failed)
    assert verify_finalists._work(record, context) is None
    assert verify_finalists._work(again, context) is None  # the verdict of this level stands
    other = replace(record.verify, data=record.verify.data | {"level": {}})
    assert verify_finalists._work(replace(again, verify=other), context).attempt == 3
    context.attempts = 2
    assert verify_finalists._work(replace(again, verify=other), context) is None
