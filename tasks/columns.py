"""The columns that every table of crystals has, whatever was scored."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.columns import Column, Dtype, Value
from ..core.protocols import Scorer
from .dft_columns import DFT_COLUMNS

_HULL = "the hull of the reference named in `reference`, with energies of the potential in `level`"
_EV = "eV/atom"

COLUMNS: tuple[Column, ...] = (
    Column("slot", "Int64", "position among all proposals, from 0"),
    Column("source", "string", "file and entry, or what the crystal was made from"),
    Column("key", "string", "digest of the crystal's content: same crystal, same key"),
    Column("formula", "string", "formula of the cell, reduced"),
    Column("chemsys", "string", "its elements"),
    Column("n_atoms", "Int64", "atoms in the cell"),
    Column("spacegroup", "Int64", "space group at 0.1 angstrom, relaxed where it was", "", "spglib"),
    Column("valid", "boolean", "passed the validity check, before relaxation"),
    Column("unique", "boolean", "no earlier proposal matches, neither proposed nor relaxed"),
    Column("novel", "boolean", "no phase of the reference matches, neither proposed nor relaxed"),
    Column("converged", "boolean", "forces and stress were below the thresholds at the last step"),
    Column("energy_per_atom", "float64", "the potential's own energy", _EV),
    Column(
        "formation_energy_per_atom",
        "float64",
        "against the elements, in the scheme that `corrections` names",
        _EV,
    ),
    Column("energy_above_hull", "float64", "never negative", _EV, _HULL),
    Column("decomposition_energy", "float64", "signed: negative below the known hull", _EV, _HULL),
    Column("decomposition", "string", "the competing phases, by fraction of atoms", "", _HULL),
    Column("stable_0", "boolean", "energy_above_hull <= 0", "", _HULL),
    Column("stable_0.1", "boolean", "energy_above_hull <= 0.1", "", _HULL),
    Column("sun_0", "boolean", "stable (0), unique, novel and valid, all at once"),
    Column("sun_0.1", "boolean", "stable (0.1), unique, novel and valid, all at once"),
    Column("sun", "boolean", "sun_0.1"),
    Column("reason", "string", "why it is no SUN crystal: the first check that says so"),
    Column("detail", "string", "the numbers behind the reason"),
    Column("duplicate_of", "string", "key of the earliest crystal that matches"),
    Column("known_as", "string", "id of the known phase that matches"),
    Column("steps", "Int64", "steps of the relaxation"),
    Column("max_force", "float64", "largest force on an atom at the end", "eV/angstrom"),
    Column("max_stress", "float64", "largest stress component at the end", "eV/angstrom^3"),
    Column("level", "string", "potential behind the energies"),
    Column("corrections", "string", "how its energies came to the scheme of the reference"),
    Column("correction_uncertain", "boolean", "the correction had to be guessed"),
    Column("reference", "string", "name and digest of the known phases"),
    Column("generator", "string", "who proposed it"),
    Column("stage", "string", "the last stage that it came to"),
    Column("status", "string", "passed, rejected or failed there"),
)


def columns_of(
    scorers: Sequence[Scorer], scores: Sequence[dict[str, Value]], *, by_dft: bool = False
) -> tuple[Column, ...]:
    """All columns of a table: the common ones, the scorers', and what was scored in earlier runs.

    Args:
        scores: what was recorded, crystal by crystal.
        by_dft: crystals are judged by DFT too.
    """
    scored = (c for scorer in scorers for c in scorer.columns)
    found = {c.name: c for c in (*COLUMNS, *(DFT_COLUMNS if by_dft else ()), *scored)}
    for row in scores:
        for name, value in row.items():
            if name not in found and value is not None:
                found[name] = Column(name, _dtype(value), "scored in an earlier run")
    return tuple(found.values())


def _dtype(value: Value) -> Dtype:
    if isinstance(value, bool):
        return "boolean"
    return "string" if isinstance(value, str) else "float64"
