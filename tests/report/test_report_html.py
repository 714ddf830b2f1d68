"""The report as a reader and a browser meet it."""

import json
import re
from datetime import UTC, datetime
from functools import cache
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from heliodor.core.convert import from_structure
from heliodor.core.crystal import Crystal
from heliodor.core.errors import StorageError
from heliodor.report.crystals import DETAILED, LISTED, ranked
from heliodor.report.html import render, write_report
from heliodor.report.model import (
    CrystalRow,
    FailureRow,
    FunnelStep,
    HullDiagram,
    HullPhase,
    PolymorphRow,
    Rate,
    ReportData,
)
from heliodor.report.stats import wilson

VOID = {"meta", "br", "input", "col", "link", "img", "hr"}
HOSTILE = "</script><script>alert('x')</script><img src=x onerror=\"alert(1)\">&\x00"


class Page(HTMLParser):
    """Checks that every element is closed in order; collects elements, text and data."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.text, self.scripts = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        assert len(attrs) == len(dict(attrs)), f"an attribute of {tag} is given twice"
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self):
        return re.sub(r"\s+", " ", "".join(self.text))

    def ids(self):
        return [a["id"] for _, a in self.elements if "id" in a]


@cache
def spinel():
    return from_structure(
        Structure.from_spacegroup(
            "Fd-3m:2",
            Lattice.cubic(8.40),
            ["Li", "Ti", "O"],
            [[1 / 8] * 3, [1 / 2] * 3, [0.263] * 3],
        ).get_primitive_structure()
    )


def row(slot=0, **changes):
    crystal = changes.pop("crystal", None) or spinel()
    values = {
        "slot": slot,
        "key": crystal.digest,
        "formula": "LiTi2O4",
        "spacegroup_symbol": "Fd-3m",
        "n_atoms": len(crystal),
        "crystal": crystal,
        "energy_above_hull": 0.0,
        "decomposition_energy": -0.0123,
        "formation_energy_per_atom": -3.2462,
        "decomposition": (("TiO2", "mp-554278", 0.4286), ("Li2TiO3", "mp-36864", 0.5714)),
        "level": "chgnet-0.3.0",
        "corrections": "MP2020 (in the potential)",
        "reference": "embedded-2026.1 (a1b2c3d4)",
        "unique": True,
        "novel": True,
        "sun": True,
        "source": "spinel with Mg, Al replaced",
        "dft_path": "dft/LiTi2O4_ab12",
    }
    return CrystalRow(**(values | changes))


def phases():
    known = (
        ("Li", "mp-135", (1, 0, 0), 0.0, 0.0),
        ("O2", "mp-12957", (0, 1, 0), 0.0, 0.0),
        ("TiO2", "mp-554278", (0, 2 / 3, 1 / 3), -3.5016, 0.0),
        ("TiO2", "mp-2657", (0, 2 / 3, 1 / 3), -3.4644, 0.0372),
        ("Li2O", "mp-1960", (2 / 3, 1 / 3, 0), -2.0717, 0.0),
    )
    points = [HullPhase(n, i, f, e, a, "reference") for n, i, f, e, a in known]
    return [*points, HullPhase("LiTi2O4", None, (1 / 7, 4 / 7, 2 / 7), -3.3, -0.0123, "candidate", 0)]


def report(**changes):
    values = {
        "name": "first-light",
        "seed": 7,
        "space": "Li-O-Ti",
        "created_at": datetime(2026, 11, 21, 6, 9, tzinfo=UTC),
        "proposed": 120,
        "sun": 1,
        "settings": [("Relaxer", "CHGNet 0.3.0")],
        "funnel": [
            FunnelStep("proposed", 117, {}, {"generation_failed": 3}),
            FunnelStep("valid", 100, {"atoms_too_close": 17}),
            FunnelStep("relaxed", 88, {}, {"not_converged": 12}),
        ],
        "rates": [Rate("SUN", 1, 120, *wilson(1, 120))],
        "rows": [row(), row(5, sun=False, novel=False, unique=None, decomposition_energy=0.0517,
                            energy_above_hull=0.0517, uncertain=True)],
        "all_energies": [-0.0123, 0.0517, 0.31],
        "element_counts": {"Li": (117, 1), "O": (117, 1), "Ti": (100, 1)},
        "hulls": [HullDiagram(("Li", "O", "Ti"), phases())],
        "polymorphs": [
            PolymorphRow("LiTi2O4", 1, "mp-5670", True, -3.27, -0.02, 227, None, "PBE", False),
            PolymorphRow("LiTi2O4", 2, "ab12", False, -3.25, 0.02, 227, 1, "chgnet-0.3.0", True, 0),
        ],
        "failures": [FailureRow("relax", "not_converged", 12, "largest force 0.31 eV/Å")],
        "provenance": {"Heliodor": "0.1.0", "Settings digest": "4f1c92"},
        "notes": ["An energy above this hull is a lower bound."],
    }  # fmt: skip
    return ReportData(**(values | changes))


@pytest.fixture(scope="module")
def page():
    return Page(render(report()))


def test_all_numbers_are_there_with_their_units(page):
    for wanted in (
        "1 SUN crystal of 120 proposed in Li–O–Ti",
        "seed 7",
        "2026-11-21 06:09 UTC",
        "energy above hull ≤ 0.1 eV/atom",
        "−0.0123 eV/atom",
        "+0.0517 eV/atom",
        "−3.2462 eV/atom",
        "42.9 %",
        "mp-554278",
        "chgnet-0.3.0 · MP2020 (in the potential)",
        "embedded-2026.1 (a1b2c3d4)",
        "5.940, 5.940, 5.940 Å",
        "60.00, 60.00, 60.00 °",
        "148.18 Å³",
        "10.58 Å³",
        "dft/LiTi2O4_ab12",
        "17 atoms too close",
        "12 not converged",
        "An energy above this hull is a lower bound.",
        "largest force 0.31 eV/Å",
        "Settings digest",
    ):
        assert wanted in page.words, wanted


def test_density_of_the_spinel(page):
    # 2 formula units of 166.67 g/mol in 148.18 cubic angstrom: 2 * 166.67 / (0.60221 * 148.18)
    found = float(re.search(r"density([\d.]+) g/cm³", page.words)[1])
    assert found == pytest.approx(2 * 166.67 / (0.602214 * 148.176), abs=0.02)


def test_ids_are_unique_and_links_lead_somewhere(page):
    ids = page.ids()
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        target = attributes.get("href", "")
        if target.startswith("#"):
            assert target[1:] in ids, target
        elif tag == "a":
            assert target.startswith("https://materialsproject.org/materials/mp-")
        if "aria-controls" in attributes:
            assert attributes["aria-controls"] in ids


def test_nothing_is_loaded_from_elsewhere(page):
    text = render(report())
    assert not re.search(r"url\(|@import|\bfetch\(|XMLHttpRequest|import\(", text)
    for tag, attributes in page.elements:
        assert "src" not in attributes
        assert tag not in {"link", "img", "iframe", "object", "embed"}
        assert not any(name.startswith("on") for name in attributes), "no inline handlers"
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy


def test_every_svg_is_well_formed_and_named():
    drawn = re.findall(r"<svg.*?</svg>", render(report()), flags=re.DOTALL)
    assert len(drawn) > 8
    for text in drawn:
        element = ET.fromstring(text)  # noqa: S314  our own text
        hidden = element.get("aria-hidden") == "true" or "ticks" in element.get("class", "")
        assert hidden or element.get("aria-label")
        for part in element.iter():
            for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height"):
                value = part.get(name)
                assert value is None or np.isfinite(float(value.rstrip("%")))


def test_hostile_text_stays_text():
    nasty = row(
        formula=HOSTILE, spacegroup_symbol=HOSTILE, source=HOSTILE, dft_path=HOSTILE, level=HOSTILE,
        corrections=HOSTILE, reference=HOSTILE, decomposition=((HOSTILE, HOSTILE, 1.0),),
    )  # fmt: skip
    point = HullPhase(HOSTILE, HOSTILE, (0.2, 0.3, 0.5), -1.0, 0.0, "reference")
    data = report(
        name=HOSTILE, space=HOSTILE, rows=[nasty], settings=[(HOSTILE, HOSTILE)], notes=[HOSTILE],
        polymorphs=[PolymorphRow(HOSTILE, 1, HOSTILE, True, None, None, None, None, HOSTILE, True)],
        provenance={HOSTILE: HOSTILE}, failures=[FailureRow(HOSTILE, HOSTILE, 1, HOSTILE)],
        funnel=[FunnelStep(HOSTILE, 1, {HOSTILE: 1}, {HOSTILE: 2})],
        rates=[Rate(HOSTILE, 1, 2, 0.1, 0.9)],
        hulls=[HullDiagram(("Li", "O", "Ti"), [*phases(), point])],
    )  # fmt: skip
    text = render(data)
    page = Page(text)
    assert len(page.scripts) == 3, "scenes and our two scripts, no more"
    assert not any(tag == "img" for tag, _ in page.elements)
    assert "alert('x')" in page.words, "shown as text"
    assert "\x00" not in text
    for drawn in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        ET.fromstring(drawn)  # noqa: S314  our own text


def test_scenes_are_json_with_the_right_structure(page):
    scenes = json.loads(page.scripts[0])
    assert set(scenes["crystals"]) == {"0", "5"}
    scene = scenes["crystals"]["0"]
    assert len(scene["types"]) == 56, "the conventional cell of a spinel"
    assert len(scene["frac"]) == 3 * 56
    assert scene["kinds"] == ["Li", "Ti", "O"]
    assert scenes["styles"]["O"] == ["#ff0d0d", 0.66]


def test_best_first():
    rows = [row(1, sun=False, decomposition_energy=-0.2), row(2, decomposition_energy=None, sun=False),
            row(3, decomposition_energy=0.01), row(4, decomposition_energy=-0.05)]  # fmt: skip
    assert [r.slot for r in ranked(rows)] == [4, 3, 1, 2]


def test_an_empty_campaign_says_so():
    words = Page(
        render(ReportData("empty", 0, "Li-O", datetime(2026, 1, 1, tzinfo=UTC), proposed=0, sun=0))
    ).words
    for wanted in (
        "0 SUN crystals of 0 proposed",
        "No step has run yet",
        "No crystal has been judged yet",
        "No relaxed crystal has an energy above hull",
        "No chemical system has a hull diagram",
    ):
        assert wanted in words


def test_finalists_among_their_polymorphs(page):
    assert "not compared" in page.words
    assert "no. 0 SUN" in page.words
    assert "+0.0200" in page.words
    many = [
        PolymorphRow(f"Li{n}O", k, f"{n}-{k}", True, -1.0, 0.1, 1, k, "PBE", False)
        for n in range(2, 40)
        for k in range(12)
    ]
    words = Page(render(report(polymorphs=many))).words
    assert "and 4 more, in polymorphs.csv" in words
    assert "14 further compositions are in polymorphs.csv" in words
    assert "Polymorphs" not in Page(render(report(polymorphs=[]))).words


def test_rows_without_energies():
    bare = row(
        energy_above_hull=None, decomposition_energy=None, formation_energy_per_atom=None,
        decomposition=(), level="", corrections="", reference="", sun=False, spacegroup_symbol=None,
        dft_path=None, source="",
    )  # fmt: skip
    words = Page(render(report(rows=[bare], sun=0, all_energies=[], hulls=[]))).words
    assert "not prepared" in words
    assert not re.search(r"\bnan\b", words, flags=re.IGNORECASE)
    assert "None" not in words


def test_a_cell_that_cannot_be_drawn_is_listed_without_a_picture():
    broken = Crystal(np.full((3, 3), np.nan), np.zeros((1, 3)), np.array([3]))
    flat = Crystal(np.diag([3.0, 3.0, 0.0]), np.zeros((1, 3)), np.array([3]))
    page = Page(render(report(rows=[row(0, crystal=broken), row(1, crystal=flat)])))
    assert json.loads(page.scripts[0])["crystals"] == {}
    assert page.words.count("not a valid cell") == 2


def test_a_thousand_rows():
    rows = [row(k, sun=k < 20, decomposition_energy=k / 1000) for k in range(LISTED + 50)]
    text = render(report(rows=rows))
    page = Page(text)
    assert len(json.loads(page.scripts[0])["crystals"]) == DETAILED
    assert sum("data-find" in a for _, a in page.elements) == LISTED
    assert f"best {DETAILED} of {LISTED + 50}" in page.words
    assert f"ends after {LISTED} rows" in page.words
    assert len(text) < 2_000_000


def test_twenty_crystals_stay_below_a_megabyte():
    assert len(render(report(rows=[row(k) for k in range(20)])).encode()) < 1_000_000


def test_a_large_cell_is_drawn_as_it_is():
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(8)] * 3), -1).reshape(-1, 3)[:500] / 8
    crystal = Crystal(np.eye(3) * 20, grid + rng.normal(0, 0.004, grid.shape), rng.choice([12, 8], 500))
    scene = json.loads(Page(render(report(rows=[row(crystal=crystal)]))).scripts[0])["crystals"]["0"]
    assert scene["cell"] == "cell as computed"
    assert len(scene["types"]) == 500


@pytest.mark.parametrize(
    ("elements", "points"),
    [
        (("Li",), [HullPhase("Li", "mp-135", (1.0,), 0.0, 0.0, "reference")]),
        (("Li", "O"), []),
        (("Li", "O", "Ti"), []),
        (
            ("Fe", "Li", "O", "P"),
            [HullPhase("LiFePO4", "mp-19017", (1 / 7, 1 / 7, 4 / 7, 1 / 7), -2.5, 0.0, "reference")],
        ),
    ],
)  # fmt: skip
def test_hulls_of_every_size(elements, points):
    page = Page(render(report(hulls=[HullDiagram(elements, points)])))
    assert "–".join(elements) in page.words


def test_the_table_of_phases_names_ids_and_energies(page):
    assert re.search(r"Li2O mp-1960.*?−2\.072.*?0\.000", page.words)
    assert re.search(r"TiO2 mp-2657.*?−3\.464.*?0\.037", page.words)


def test_writing_is_whole_or_not_at_all(tmp_path):
    path = tmp_path / "runs" / "report.html"
    write_report(report(), path)
    first = path.read_text(encoding="utf-8")
    assert first == render(report())
    write_report(report(sun=0, rows=[]), path)
    assert path.read_text(encoding="utf-8") != first
    assert [p.name for p in path.parent.iterdir()] == ["report.html"], "no temporary file stays"


def test_a_path_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write the report"):
        write_report(report(), tmp_path / "file" / "report.html")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError):
        write_report(report(), tmp_path / "folder")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
