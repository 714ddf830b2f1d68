"""The examples run as they are, and say what they should."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from heliodor.core.campaign import load_campaign

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.slow
def test_notebook_style_judges_three_crystals():
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / "notebook_style.py")],
        capture_output=True, text=True, check=True, timeout=200,
    )  # fmt: skip
    for formula in ("LiF", "NaCl", "SrO"):
        assert f"{formula} HullPoint(" in result.stdout


def test_the_quickstart_proposes_a_hundred_crystals_or_more():
    assert load_campaign(EXAMPLES / "quickstart.yaml").budget.candidates >= 100
