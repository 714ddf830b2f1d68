"""The DFT section as a reader meets it."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest

from heliodor.report.dft import dft_section
from heliodor.report.model import Compared, DftCard, DftData, DftFailure, DftPhase
from heliodor.report.parity_plot import parity_plot

HOSTILE = "</script><script>alert(1)</script>"
CARD = DftCard(
    slot=12,
    formula="LiTi2O4",
    verdict="metastable",
    decomposition_energies=(-0.0123, 0.0517),
    compared=[Compared("above hull", "eV/atom", 0.0, 0.0517), Compared("gap", "eV", None, 1.5)],
    rmsd=0.021,
    model="chgnet-0.3.0",
    level="PBE, abinit-9.6.2 (level 3f2a1b)",
    settings=[("plane-wave cutoff", "680 eV")],
    steps=7,
    max_force=0.0031,
    max_stress=None,
    attempts=1,
    mended=(),
    seconds=9000.0,
    magnetization=1.0,
    band_gap=0.0,
    phases=[
        DftPhase("Li", "element", -204.1, None, "reference", "/elsewhere/Li"),
        DftPhase("TiO2", "mp-2657", -818.5, 0.4286, "reference", "dft/TiO2 ab%"),
    ],
    hull="4 phases",
    input_digest="c" * 64,
    folder="dft/LiTi2O4-38dfa4cbf651",
)


class Links(HTMLParser):
    """All addresses, and the text between the tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "script"
        self.addresses += [value or "" for name, value in attrs if name == "href"]

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def section(*cards: DftCard, failures: tuple[DftFailure, ...] = ()) -> Links:
    return Links(dft_section(DftData(cards, failures, 0.1)))


def test_a_card_holds_both_numbers_their_difference_and_the_level():
    text = re.sub(r"\s+", " ", section(CARD).text)
    for wanted in (
        "above hull eV/atom 0.000 0.052 −0.052",
        "gap eV – 1.500 –",
        "PBE, abinit-9.6.2 (level 3f2a1b)",
        "680 eV",
        "2.5 h",
        "band gap metal",
        "1.00 μB per cell",
        "largest stress –",
        "42.9 %",
        "off by 0.064 eV/atom",
        "0.064 eV/atom too low",
    ):
        assert wanted in text, wanted


def test_the_head_of_a_column_leaves_out_the_digest_only():
    text = section(replace(CARD, level="PBE (learned), sevennet-0 (level 3f2a1b)")).text
    assert re.search(r"DFT\s+PBE \(learned\), sevennet-0\s+difference", text)


def test_folders_beside_the_report_are_links_and_others_are_not():
    found = section(CARD).addresses
    assert "dft/LiTi2O4-38dfa4cbf651/" in found
    assert "dft/TiO2%20ab%25/" in found
    assert "https://materialsproject.org/materials/mp-2657" in found
    assert not [a for a in found if "elsewhere" in a]


def test_what_is_refuted_or_failed_is_counted_apart():
    failed = DftFailure(3, "MgO2", "dft_not_converged", "60 steps")
    shown = section(CARD, replace(CARD, slot=13, verdict="refuted"), failures=(failed,))
    text = re.sub(r"\s+", " ", shown.text)
    assert re.search(r"metastable 1 .*refuted 1 .*failed 1 ", text)
    assert "confirmed" not in text
    assert "dft not converged : 60 steps" in text
    assert {"#dft-12", "#dft-13"} <= set(shown.addresses)  # the dots lead to the cards


def test_only_failures_are_a_section_too():
    failed = DftFailure(3, "MgO2", "dft_killed", "no memory")
    shown = section(failures=(failed,))
    assert "no memory" in shown.text
    assert "mean absolute error" not in shown.text


def test_no_text_of_the_data_becomes_markup():
    hostile = replace(CARD, formula=HOSTILE, mended=(HOSTILE,), folder=f"dft/{HOSTILE}", model=HOSTILE)
    section(hostile, hostile, failures=(DftFailure(1, HOSTILE, HOSTILE, HOSTILE),))


@pytest.mark.parametrize("spread", [0.0, 0.004, 0.3, 2.5, 40.0])
def test_dots_lie_within_the_frame_and_agreement_on_the_diagonal(spread):
    energies = [(0.0, 0.0), (spread, spread), (-spread, spread / 3)]
    drawn = ET.fromstring(  # noqa: S314  our own text
        parity_plot([replace(CARD, decomposition_energies=e) for e in energies])
    )
    dots = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in drawn.iter("circle")]
    frame = next(r.attrib for r in drawn.iter("rect") if r.attrib.get("class") == "frame")
    left, top, side = float(frame["x"]), float(frame["y"]), float(frame["width"])
    assert all(left <= x <= left + side and top <= y <= top + side for x, y in dots)
    for x, y in dots[:2]:
        assert x - left == pytest.approx(top + side - y, abs=0.02)
    ticks = [t.text for t in drawn.iter("text") if "tick" in t.attrib["class"]]
    assert len(ticks) == len(set(ticks)) * 2  # each on both axes
    assert len(ticks) <= 20
    assert "0.0" in ticks or "0.00" in ticks
