"""Every implementation of a protocol passes the contract that third parties test theirs with."""

from __future__ import annotations

import pytest

from heliodor.core.choices.relaxers import ChgnetChoice, SevennetChoice
from heliodor.core.convert import to_structure
from heliodor.core.records import Conditions
from heliodor.engines.dft_engine import FlowEngine
from heliodor.engines.mlip import ChgnetRelaxer, SevennetRelaxer
from heliodor.engines.vasp_recipe import VaspRecipe
from heliodor.generators.diffusion.generator import DiffusionGenerator
from heliodor.generators.files import FilesGenerator
from heliodor.generators.random_symmetric import RandomGenerator
from heliodor.generators.substitution import SubstitutionGenerator
from heliodor.testing import (
    check_dft_engine,
    check_evaluator,
    check_generator,
    check_ordered_validator,
    check_reference,
    check_relaxer,
    check_validator,
    rock_salt,
)
from heliodor.validators.reference_embedded import EmbeddedReference
from heliodor.validators.reference_file import FileReference
from heliodor.validators.uniqueness import Uniqueness
from heliodor.validators.validity import Validity

CRYSTALS = [rock_salt(), rock_salt(4.81, 20, 8), rock_salt(5.64, 11, 17), rock_salt(4.3)]
GENERATORS = [
    DiffusionGenerator,
    SubstitutionGenerator,
    pytest.param(RandomGenerator, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("subsystems", [False, True])
def test_generators(generator, subsystems):
    conditions = Conditions(elements=("Mg", "O", "Ti"), require_all=not subsystems, max_atoms=12)
    check_generator(generator(), conditions, n=4)


def test_files_generator(tmp_path):
    from pymatgen.io.cif import CifWriter

    for i, crystal in enumerate(CRYSTALS):
        (tmp_path / f"{i}.cif").write_text(str(CifWriter(to_structure(crystal))))
    (tmp_path / "broken.cif").write_text("data_x\n_cell_length_a")
    check_generator(FilesGenerator([str(tmp_path)]), Conditions())


@pytest.mark.parametrize("validator", [Validity, Uniqueness])
def test_validators(validator):
    check_validator(validator(), CRYSTALS)


def test_ordered_validators():
    check_ordered_validator([Uniqueness() for _ in range(3)], CRYSTALS)


@pytest.mark.parametrize(
    ("relaxer", "choice"),
    [
        (ChgnetRelaxer, ChgnetChoice(kind="chgnet")),
        pytest.param(SevennetRelaxer, SevennetChoice(kind="sevennet"), marks=pytest.mark.slow),
    ],
)
def test_relaxers(relaxer, choice):
    made = relaxer(choice, workers=2)
    try:
        check_relaxer(made, CRYSTALS[:2])
        check_evaluator(made, CRYSTALS[:2])
    finally:
        made.close()


def test_embedded_reference():
    check_reference(EmbeddedReference(), rock_salt(5.69, 11, 17))


def test_file_reference(tmp_path):
    import pandas as pd

    rows = [
        {
            "material_id": f"mine-{i}",
            "formula": c.formula,
            "n_atoms": len(c),
            "spacegroup": 225,
            "formation_energy_per_atom": -2.0 - i / 10,
            "atomic_numbers": c.atomic_numbers.tolist(),
            "frac_coords": c.frac_coords.ravel().tolist(),
            "lattice": c.lattice.ravel().tolist(),
        }
        for i, c in enumerate(CRYSTALS)
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "mine.parquet")
    check_reference(FileReference(tmp_path / "mine.parquet"), CRYSTALS[0])


def test_dft_engine(tmp_path):
    check_dft_engine(FlowEngine(VaspRecipe()), CRYSTALS[:2], tmp_path)
