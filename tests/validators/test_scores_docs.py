"""docs/scores.md says of each column what the column says of itself."""

from pathlib import Path

import pytest

from heliodor.tasks.columns import COLUMNS
from heliodor.validators.analogue import Analogue
from heliodor.validators.change import Change
from heliodor.validators.chemistry import Chemistry
from heliodor.validators.structure import Structure
from heliodor.validators.supply import Supply
from heliodor.validators.synthesizability import Synthesizability

PAGE = Path(__file__).resolve().parents[2] / "docs" / "scores.md"
SCORERS = (Structure, Chemistry, Supply, Analogue, Synthesizability)


def rows() -> list[str]:
    return [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]


@pytest.mark.parametrize("scorer", SCORERS, ids=lambda s: s.__name__)
def test_every_column_is_described_in_its_own_words(scorer):
    for c in scorer.columns:
        assert f"| `{c.name}` | {c.meaning} | {c.unit} | {c.source} | {c.limits} |" in rows()


def test_the_page_has_no_other_columns():
    assert len(rows()) == sum(len(scorer.columns) for scorer in SCORERS)


def test_names_are_all_different():
    names = [c.name for s in (*SCORERS, Change) for c in s.columns] + [c.name for c in COLUMNS]
    assert len(set(names)) == len(names)
