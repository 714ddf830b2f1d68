"""From the records of a campaign to the table of polymorphs, and what it becomes on disk."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from heliodor.core.campaign import Screen
from heliodor.core.crystal import Crystal
from heliodor.core.errors import ReferenceUnavailableError
from heliodor.core.protocols import Phase
from heliodor.core.records import Candidate, Origin, Outcome, Stage, Status
from heliodor.report.polymorphs import polymorph_tables
from heliodor.tasks.outputs import write_polymorphs
from heliodor.tasks.polymorphs import COLUMNS, finalists_among
from heliodor.tasks.report_data import polymorph_rows
from heliodor.tasks.table import Record

PASSED = {"passed": True}


def binary(kind, a, numbers):
    """Rock salt, zincblende (face-centred) or CsCl type (primitive)."""
    if kind == "CsCl":
        return Crystal(a * np.eye(3), [[0, 0, 0], [0.5, 0.5, 0.5]], numbers)
    place = {"rock salt": 0.5, "zincblende": 0.25}[kind]
    return Crystal(a / 2 * (np.ones((3, 3)) - np.eye(3)), [[0, 0, 0], [place] * 3], numbers)


ROCK_SALT, ZINCBLENDE = binary("rock salt", 4.21, [12, 8]), binary("zincblende", 4.6, [12, 8])
CSCL, NACL = binary("CsCl", 2.65, [12, 8]), binary("rock salt", 5.64, [11, 17])


def record(slot, crystal, formation, above, *, novel=True):
    candidate = Candidate(crystal, Origin("g", "1", 0, slot))
    hull = {"formation_energy_per_atom": formation, "energy_above_hull": above, "level": "chgnet-0.3.0"}
    judged = {"uniqueness": PASSED, "novelty": {"passed": novel}}

    def outcome(stage, data, **more):
        return Outcome(slot, stage, Status.PASSED, data=data, **more)

    return Record(
        slot,
        outcome(Stage.GENERATE, {}),
        candidate,
        screen=outcome(Stage.SCREEN, {"validity": PASSED, **judged}),
        relax=outcome(Stage.RELAX, {}, crystal=crystal),
        assess=outcome(Stage.ASSESS, {**judged, "hull": hull}),
    )


class Known:
    """One known rock salt, with or without its structure."""

    def __init__(self, crystal):
        self.crystal = crystal

    def like(self, composition):
        if composition != ROCK_SALT.reduced_composition:
            raise ReferenceUnavailableError("not covered")
        return [Phase("mp-1265", composition, -3.0, None if self.crystal else 225, self.crystal)]


FOUND = [
    record(0, ROCK_SALT, -2.99, 0.01, novel=False),
    record(1, ZINCBLENDE, -2.95, 0.05),
    record(2, CSCL, -2.6, 0.4),
    record(3, NACL, -2.0, 0.3),
]


def table(crystal):
    return finalists_among(
        SimpleNamespace(campaign=SimpleNamespace(screen=Screen()), reference=Known(crystal)), FOUND
    )


def test_a_finalist_meets_all_known_and_judged_crystals_of_its_composition():
    rows = table(binary("rock salt", 4.25, [12, 8]))
    assert [(r.formula, r.rank, r.origin, r.cluster, r.spacegroup) for r in rows] == [
        ("MgO", 1, "known", 1, 225),
        ("MgO", 2, "generated", 1, 225),
        ("MgO", 3, "generated", 2, 216),
        ("MgO", 4, "generated", 3, 221),
    ]
    assert [r.gap for r in rows] == pytest.approx([-0.05, -0.04, 0.05, 0.4])
    assert [r.finalist for r in rows] == [False, False, True, False]
    assert [r.level for r in rows] == ["PBE or PBE+U with MP2020"] + ["chgnet-0.3.0"] * 3


def test_known_phases_without_structures_are_listed_but_not_clustered():
    rows = table(None)
    assert [(r.origin, r.cluster, r.spacegroup) for r in rows] == [
        ("known", None, 225),
        ("generated", 1, 225),
        ("generated", 2, 216),
        ("generated", 3, 221),
    ]


def test_a_finalist_that_the_reference_does_not_cover_stands_alone():
    alone = record(4, NACL, -2.1, 0.0)
    context = SimpleNamespace(campaign=SimpleNamespace(screen=Screen()), reference=Known(None))
    (row,) = finalists_among(context, [alone])
    assert (row.formula, row.gap, row.cluster) == ("NaCl", None, 1)


def test_the_files_say_what_they_hold(tmp_path):
    rows = table(None)
    write_polymorphs(rows, tmp_path)
    csv, parquet = (
        pd.read_csv(tmp_path / "polymorphs.csv"),
        pd.read_parquet(tmp_path / "polymorphs.parquet"),
    )
    names = [c.name for c in COLUMNS]
    assert list(csv.columns) == list(parquet.columns) == names
    assert parquet["cluster"].tolist() == [pd.NA, 1, 2, 3]
    assert parquet["gap"].tolist() == pytest.approx([r.gap for r in rows])
    described = json.loads((tmp_path / "polymorphs_columns.json").read_text())
    assert [c["name"] for c in described] == names
    write_polymorphs([], tmp_path)
    assert list(pd.read_csv(tmp_path / "polymorphs.csv").columns) == names


def test_the_report_shows_finalists_first_and_links_them():
    html = polymorph_tables(polymorph_rows(FOUND, table(None)))
    assert 'href="#slot-1">no. 1</a> <span class="badge sun">SUN</span>' in html
    assert "https://materialsproject.org/materials/mp-1265" in html
    assert "not compared" in html
    assert html.count("<tr") == 5
    assert "+0.0500" in html
