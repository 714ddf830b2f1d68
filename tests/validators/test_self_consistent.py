"""A reference computed with the judging potential: the same energies on both sides, kept on disk."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import threading
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from heliodor.core.campaign import parse_campaign
from heliodor.core.choices.relaxers import ChgnetChoice, relaxation_settings
from heliodor.core.crystal import Crystal
from heliodor.core.errors import HeliodorError, InputError, ReferenceUnavailableError, StorageError
from heliodor.core.protocols import Phase, Reference, ReferenceInfo
from heliodor.core.records import Failure, Reason, Relaxed, Verdict
from heliodor.core.settings import Settings
from heliodor.flows.build import with_own_energies
from heliodor.testing import check_reference
from heliodor.validators.energies import elemental_energies
from heliodor.validators.phase_energies import PhaseEnergies
from heliodor.validators.phases import Phases
from heliodor.validators.reference_embedded import EmbeddedReference
from heliodor.validators.reference_file import FileReference
from heliodor.validators.self_consistent import SelfConsistentReference
from heliodor.validators.stability import Stability

NA, CL = 11, 17
R2SCAN = "sevennet-mf-0-r2scan"


def cell(numbers, a=4.0):
    """Atoms in a row along the diagonal of a cube; told apart by their number."""
    steps = np.linspace(0, 1, len(numbers), endpoint=False)
    return Crystal(a * np.eye(3), np.repeat(steps[:, None], 3, 1), numbers)


SODIUM, CHLORINE = cell([NA], 3.4), cell([CL, CL], 4.8)
SALT, OTHER_SALT = cell([NA, CL]), cell([NA, CL, NA, CL], 5.1)
RICH = cell([NA, NA, CL], 4.6)
# eV per atom at the minimum, by cell; the minimum of each lies at 20 cubic angstrom per atom.
DEPTHS = {SODIUM: -1.0, CHLORINE: -2.0, SALT: -4.0, OTHER_SALT: -3.9, RICH: -2.9}
BY_SHAPE = {tuple(c.atomic_numbers.tolist()): e for c, e in DEPTHS.items()}


class Springs:
    """A potential with an exact minimum: a depth and a spring in the volume."""

    name = "springs"

    def __init__(self, model="chgnet-0.3.0", failing=(), dies_after=10**9):
        self.model, self.failing, self.dies_after = model, failing, dies_after
        self.asked = []

    def supports(self, atomic_number):
        return True

    def relax(self, batch, ceilings=None):
        for crystal in batch:
            if len(self.asked) >= self.dies_after:
                raise HeliodorError("the relaxer was closed while it was working")
            self.asked.append(crystal)
            if crystal in self.failing:
                yield Failure(crystal.digest, Reason.TIME_LIMIT, "not converged after 1 s")
                continue
            scale = (20 * len(crystal) / crystal.volume) ** (1 / 3)
            relaxed = Crystal(crystal.lattice * scale, crystal.frac_coords, crystal.atomic_numbers)
            energy = len(crystal) * BY_SHAPE[tuple(crystal.atomic_numbers.tolist())]
            yield Relaxed(crystal.digest, relaxed, energy, 0.0, 0.0, 3, True, self.model)

    def close(self):
        pass


class Listed:
    """Known phases in memory; energies by DFT that are nothing like the potential's."""

    def __init__(self, *crystals, energy=-0.1):
        phases = [Phase(f"k-{i}", c.reduced_composition, energy, 225, c) for i, c in enumerate(crystals)]
        self._phases = Phases(phases)
        self.info = ReferenceInfo("listed", "d1", len(phases), f"{len(phases)} phases")

    def entries(self, elements):
        if "Xe" in elements:
            raise ReferenceUnavailableError("listed does not cover Xe")
        return self._phases.entries(elements)

    def like(self, composition):
        return self._phases.like(composition)

    def match(self, batch):
        return [Verdict(c.digest, "novelty", True) for c in batch]


ALL = (SODIUM, CHLORINE, SALT, OTHER_SALT)


@pytest.fixture
def make(tmp_path):
    def reference(relaxer=None, base=None, limits="", settings="fmax 0.05"):
        relaxer = relaxer or Springs()
        energies = PhaseEnergies(tmp_path / "own" / "e.sqlite", relaxer.model, settings, limits)
        return SelfConsistentReference(base or Listed(*ALL), relaxer, energies)

    return reference


def judged(crystal, model="chgnet-0.3.0"):
    return next(Springs(model).relax([crystal]))


def test_phases_and_crystals_are_compared_by_the_same_energies(make):
    reference = make()
    assert isinstance(reference, Reference)
    assert reference.elemental(["Na", "Cl"]) == {NA: -1.0, CL: -2.0}
    point = Stability(reference, "chgnet-0.3.0").judge(judged(RICH))
    # Na2Cl: -2.9 + (2 * 1 + 2) / 3; its competitors: 2/3 NaCl at -2.5, 1/3 Na at 0.
    assert point.formation_energy_per_atom == pytest.approx(-2.9 + 4 / 3)
    assert point.decomposition_energy == pytest.approx(-2.9 + 4 / 3 + 2 / 3 * 2.5)
    assert {name for _, name, _ in point.decomposition} == {"k-2", "k-0"}
    assert "chgnet-0.3.0: 4 of 4 computed" in point.coverage


def test_a_known_phase_lies_on_its_own_hull_whatever_dft_says(make):
    found = Stability(make()).judge_many([judged(c) for c in ALL])
    assert [p.energy_above_hull for p in found] == pytest.approx([0, 0, 0, 0.1])


def test_known_phases_come_at_the_minimum_of_the_potential(make):
    known = make().like(SALT.reduced_composition)
    assert [p.formation_energy_per_atom for p in known] == pytest.approx([-2.5, -2.4])
    assert [p.crystal.volume / len(p.crystal) for p in known] == pytest.approx([20, 20])
    assert [p.material_id for p in known] == ["k-2", "k-3"]


def test_only_what_is_asked_for_is_computed_and_only_once(make):
    relaxer = Springs()
    reference = make(relaxer)
    reference.entries(["Na"])
    assert relaxer.asked == [SODIUM]
    reference.entries(["Na", "Cl"])
    reference.entries(["Cl"])
    assert len(relaxer.asked) == 4
    again = Springs()
    assert make(again).entries(["Na", "Cl"]) == reference.entries(["Na", "Cl"])
    assert again.asked == []


def test_a_kill_loses_nothing_that_was_computed(make):
    class Killed(Springs):
        def relax(self, batch, ceilings=None):
            for n, result in enumerate(super().relax(batch)):
                if n == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield result

    process = multiprocessing.get_context("fork").Process(
        target=lambda: make(Killed()).entries(["Na", "Cl"])
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    after = Springs()
    assert len(make(after).entries(["Na", "Cl"])) == 4
    assert len(after.asked) == 2


def test_a_relaxer_that_is_closed_ends_it_and_what_is_there_is_kept(make):
    with pytest.raises(HeliodorError, match="closed"):
        make(Springs(dies_after=3)).entries(["Na", "Cl"])
    after = Springs()
    make(after).entries(["Na", "Cl"])
    assert len(after.asked) == 1


def test_other_settings_or_another_potential_are_computed_anew(make):
    first, loose, other = make(), Springs(), Springs(R2SCAN)
    first.entries(["Na"])
    make(loose, settings="fmax 0.5").entries(["Na"])
    make(other).entries(["Na"])
    assert len(loose.asked) == len(other.asked) == 1
    digests = {make(settings="fmax 0.5").info.digest, make(other).info.digest, first.info.digest}
    assert len(digests) == 3
    assert first.info.name == "listed, energies of chgnet-0.3.0"


def test_what_cannot_be_computed_is_left_out_and_counted(make):
    reference = make(Springs(failing=[SALT]))
    found = reference.entries(["Na", "Cl"])
    assert {p.material_id for p in found} == {"k-0", "k-1", "k-3"}
    assert "3 of 4 computed, 1 left out" in reference.info.coverage
    assert "3 of 4 computed, 1 left out" in reference.coverage_of(["Cl", "Na"])
    energies = [p.formation_energy_per_atom for p in reference.like(SALT.reduced_composition)]
    assert energies == [None, pytest.approx(-2.4)]


def test_a_failure_is_tried_again_only_with_other_limits(make):
    make(Springs(failing=[SALT]), limits="1 s").entries(["Na", "Cl"])
    same, longer = Springs(), Springs()
    make(same, limits="1 s").entries(["Na", "Cl"])
    assert same.asked == []
    assert len(make(longer, limits="9 s").entries(["Na", "Cl"])) == 4
    assert longer.asked == [SALT], "minima do not depend on limits"


def test_upper_bounds_are_counted(make):
    class Tired(Springs):
        def relax(self, batch, ceilings=None):
            for result in super().relax(batch):
                yield replace(result, converged=False)

    assert "4 of 4 computed, 4 not converged" in make(Tired()).coverage_of(["Na", "Cl"])


def test_an_element_without_a_phase_stands_at_the_materials_projects_energy(make):
    reference = make(base=Listed(SODIUM, SALT))
    assert reference.elemental(["Na", "Cl"])[CL] == elemental_energies()[CL]
    assert "the Materials Project's elemental energy of Cl" in reference.coverage_of(["Na", "Cl"])


def test_another_functional_needs_its_own_elements(make):
    reference = make(Springs(R2SCAN), base=Listed(SODIUM, SALT))
    found = Stability(reference, R2SCAN).judge(judged(RICH, R2SCAN))
    assert (found.reason, found.key) == (Reason.NO_REFERENCE, RICH.digest)
    assert "Cl" in found.detail
    assert [p.material_id for p in reference.entries(["Na", "Cl"])] == ["k-0"]
    whole = Stability(make(Springs(R2SCAN)), R2SCAN).judge(judged(SALT, R2SCAN))
    assert whole.energy_above_hull == pytest.approx(0)
    assert whole.corrections == "none (r2SCAN)"


def test_another_functional_is_refused_on_energies_of_dft():
    with pytest.raises(InputError, match="energies: own"):
        Stability(EmbeddedReference(), R2SCAN)
    with pytest.raises(InputError, match="energies: own"):
        Stability(EmbeddedReference()).judge(judged(SALT, R2SCAN))


def test_another_potential_than_the_references_is_refused(make):
    with pytest.raises(InputError, match=r"got sevennet-0.*chgnet-0.3.0's"):
        Stability(make(), "sevennet-0")


def test_an_element_that_the_base_does_not_cover_costs_only_its_crystals(make):
    strange = judged(SALT)
    strange = replace(strange, crystal=cell([NA, 54]))
    salt, failed = Stability(make()).judge_many([judged(SALT), strange])
    assert salt.energy_above_hull == pytest.approx(0)
    assert (failed.reason, failed.detail) == (Reason.NO_REFERENCE, "listed does not cover Xe")


def test_threads_that_ask_at_once_compute_once(make):
    relaxer = Springs()
    reference = make(relaxer)
    threads = [threading.Thread(target=reference.entries, args=(["Na", "Cl"],)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(relaxer.asked) == 4


def test_it_is_a_reference_like_any_other(tmp_path, make):
    rows = {
        "material_id": ["mine-1", "mine-2"],
        "formation_energy_per_atom": [-2.0, 0.0],
        "atomic_numbers": [c.atomic_numbers for c in (SALT, SODIUM)],
        "frac_coords": [c.frac_coords.ravel() for c in (SALT, SODIUM)],
        "lattice": [c.lattice.ravel() for c in (SALT, SODIUM)],
    }
    pd.DataFrame(rows).to_parquet(tmp_path / "mine.parquet")
    base = FileReference(tmp_path / "mine.parquet")
    check_reference(make(base=base), SALT)


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "e.sqlite"
    path.write_bytes(b"not a database, but long enough to be read as one" * 20)
    with pytest.raises(StorageError, match=r"e\.sqlite"):
        PhaseEnergies(path, "chgnet-0.3.0", "")


def test_results_come_back_bit_by_bit(tmp_path):
    energies = PhaseEnergies(tmp_path / "e.sqlite", "chgnet-0.3.0", "s")
    result = judged(SALT)
    energies.put(result)
    energies.put(replace(result, energy=5.0))  # another process was slower
    back = energies.get([SALT.digest, RICH.digest])[SALT.digest]
    assert back == result
    assert (back.crystal.lattice == result.crystal.lattice).all()
    with sqlite3.connect(tmp_path / "e.sqlite") as db:
        assert db.execute("select count(*) from computed").fetchone() == (1,)


def campaign(**changes):
    content = {"name": "t", "generator": {"kind": "random"}, "relaxer": {"kind": "chgnet"}, **changes}
    return parse_campaign(content)


def test_the_campaign_file_says_whose_energies():
    table = {"kind": "file", "path": "x.parquet"}
    own = campaign(reference={**table, "energies": "own"})
    plain = campaign(reference=table)
    assert own.own_energies
    assert not plain.own_energies
    assert not campaign().own_energies
    assert own.science_digest() != plain.science_digest()
    with pytest.raises(InputError, match="no structures"):
        campaign(reference={"kind": "embedded", "energies": "own"})
    with pytest.raises(InputError, match="needs a potential"):
        campaign(reference={**table, "energies": "own"}, relaxer={"kind": "none"})


def test_own_energies_of_a_table_without_structures_are_refused(tmp_path):
    with pytest.raises(InputError, match="no structures"):
        with_own_energies(
            EmbeddedReference(), Springs(), ChgnetChoice(kind="chgnet"), Settings(cache=tmp_path)
        )


def test_limits_of_the_machine_decide_no_minimum():
    decides, limits = relaxation_settings(ChgnetChoice(kind="chgnet", time_limit=7))
    assert limits["time_limit"] == 7
    assert not {"time_limit", "device", "memory_limit_gb"} & decides.keys()
    assert {"fmax", "smax", "max_steps", "first"} <= decides.keys()


@pytest.mark.slow
def test_chgnet_against_its_own_rock_salt(tmp_path):
    """A known phase, found again from a strained start, lies on the hull to 2 meV/atom."""
    pytest.importorskip("chgnet")
    from heliodor.engines.mlip import MlipRelaxer

    def fcc(a, numbers, *sites):
        return Crystal(a * (np.ones((3, 3)) - np.eye(3)) / 2, [[0, 0, 0], *sites], numbers)

    salt = fcc(5.69, [NA, CL], [0.5, 0.5, 0.5])
    sodium = Crystal(4.2 * (np.ones((3, 3)) / 2 - np.eye(3)), [[0, 0, 0]], [NA])
    caesium_type = Crystal(3.45 * np.eye(3), [[0, 0, 0], [0.5, 0.5, 0.5]], [NA, CL])
    zincblende = fcc(6.1, [NA, CL], [0.25, 0.25, 0.25])
    choice = ChgnetChoice(kind="chgnet", fmax=0.02, device="cpu")
    relaxer = MlipRelaxer("chgnet", choice)
    base = Listed(salt, sodium, caesium_type, energy=-2.0)
    try:
        reference = with_own_energies(base, relaxer, choice, Settings(cache=tmp_path))
        strained = [
            Crystal(c.lattice @ np.diag([1.03, 0.99, 1.01]), c.frac_coords, c.atomic_numbers)
            for c in (salt, caesium_type, zincblende)
        ]
        relaxed = {r.key: r for r in relaxer.relax(strained)}
        points = Stability(reference, relaxer.model).judge_many([relaxed[c.digest] for c in strained])
    finally:
        relaxer.close()
    assert all(r.converged for r in relaxed.values())
    assert points[0].decomposition_energy == pytest.approx(0, abs=0.002)
    assert 0.01 < points[1].energy_above_hull < 0.15  # CsCl type, above rock salt at no pressure
    assert 0.01 < points[2].energy_above_hull < 0.3
    assert points[0].formation_energy_per_atom == pytest.approx(-2.11, abs=0.1)  # mp-22862, DFT
    assert "3 of 3 computed" in points[0].coverage
    assert "elemental energy of Cl" in points[0].coverage
