"""What a campaign shows in markdown: complete, with its pictures inside, below the limit."""

import base64
import re
import xml.etree.ElementTree as ET

import pytest
from pymatgen.core import Lattice, Structure

from heliodor.core.convert import from_structure
from heliodor.report import markdown
from heliodor.report.markdown import best_text, budget_text, failures_text, funnel_text
from heliodor.report.model import (
    BudgetRow,
    CrystalRow,
    FailureRow,
    FunnelStep,
    HullDiagram,
    HullPhase,
    Rate,
)
from heliodor.report.picture import picture

RUTILE = Structure.from_spacegroup(
    "P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
)
SVG = "{http://www.w3.org/2000/svg}"


def row(slot: int = 3) -> CrystalRow:
    crystal = from_structure(RUTILE)
    return CrystalRow(
        slot, crystal.digest, "TiO2", "P4_2/mnm", 6, crystal, 0.012, -0.004, -3.4,
        (("TiO2", "mp-2657", 1.0),), "chgnet-0.3.0", "MP2020", "MP_2026", True, True, True,
    )  # fmt: skip


def diagram() -> HullDiagram:
    points = [
        HullPhase("Ti", "mp-1", (1.0, 0.0), 0.0, 0.0, "reference"),
        HullPhase("O2", "mp-2", (0.0, 1.0), 0.0, 0.0, "reference"),
        HullPhase("TiO2", None, (1 / 3, 2 / 3), -3.4, -0.004, "candidate", 3),
    ]
    return HullDiagram(("Ti", "O"), points)


def pictures(text: str) -> list[ET.Element]:
    found = re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", text)
    return [ET.fromstring(base64.b64decode(data)) for data in found]  # noqa: S314


def test_the_picture_of_rutile_is_its_cell():
    """Two Ti (a corner: eight, and the middle) and four O, two of them on faces of z = 0 and 1."""
    drawn = ET.fromstring(picture(from_structure(RUTILE)))  # noqa: S314
    balls = [c for c in drawn.iter(f"{SVG}circle") if c.get("class") == "atom"]
    kinds = [ball.find(f"{SVG}title").text for ball in balls]
    assert kinds.count("Ti") == 9
    assert kinds.count("O") == 6, "four in the cell, two of them twice"
    lines = [line for line in drawn.iter(f"{SVG}line") if line.get("stroke-width") == "1"]
    assert len(lines) == 12, "the edges of the cell"
    assert "script" not in ET.tostring(drawn).decode()


def test_best_crystals_carry_their_pictures():
    text = best_text("c", [row()], [diagram()])
    assert "P4\\_2/mnm" in text
    assert "\N{MINUS SIGN}0.004" in text
    assert "Level: chgnet-0.3.0, hull: MP\\_2026." in text
    hull, crystal = pictures(text)
    assert hull.find(f"{SVG}style") is not None, "no style sheet of a page reaches a picture"
    assert len(list(crystal.iter(f"{SVG}circle"))) > 8
    assert "http" not in text.replace("http://www.w3.org", ""), "nothing is fetched"


def test_pictures_that_do_not_fit_are_counted(monkeypatch):
    monkeypatch.setattr(markdown, "LARGEST", 30_000)
    text = best_text("c", [row(slot) for slot in range(9)], [diagram()])
    shown = len(pictures(text))
    assert 1 < shown < 10
    assert f"{10 - shown} more in the report." in text
    assert len(text) < 33_000


def test_no_crystal_yet():
    assert "No SUN crystal yet." in best_text("c", [], [])


def test_a_table_cell_stays_a_cell():
    rows = [FailureRow("relax", "exploded", 1, "a|b\n| c | <img>"), FailureRow("screen", "x", 7)]
    lines = failures_text("c", rows).splitlines()
    assert lines[4].startswith("| screen | x | 7 |"), "most frequent first"
    assert lines[5] == "| relax | exploded | 1 | a\\|b \\| c \\| \\<img\\> |"
    assert "Nothing has failed." in failures_text("c", [])


def test_the_budget_burns_down():
    rows = [BudgetRow("GPU hours", 2.5, 10), BudgetRow("money", 12, None), BudgetRow("sun", 30, 10)]
    lines = budget_text("c", rows, "ended").splitlines()
    assert lines[4] == f"| GPU hours | 2.5 | 10 | 7.5 | {'█' * 5}{'░' * 15} 25 % |"
    assert lines[5] == "| money | 12 | no limit |  |  |"
    assert "100 %" in lines[6]
    assert " 0 " in lines[6]


@pytest.mark.parametrize("n", [0, 4])
def test_the_funnel_has_rates_with_intervals(n):
    steps = [FunnelStep("proposed", n), FunnelStep("valid", n // 2, {"atoms_too_close": n - n // 2})]
    text = funnel_text("c", steps, [Rate("valid", n // 2, n, 0.15, 0.85)])
    assert "15.0 % to 85.0 %" in text
    assert ("50.0 %" in text) is (n > 0)
    assert "atoms too close" in text
