"""Folders that come back from where VASP ran: read once; what is wrong is said, and gives no number."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("atomate2")

from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp.inputs import Incar

from heliodor.core.choices.dft import VaspChoice
from heliodor.core.convert import from_structure
from heliodor.core.records import DftResult, DftTicket, Failure, Reason
from heliodor.engines.dft_engine import FlowEngine
from heliodor.engines.dft_results import read_result, write_failure
from heliodor.engines.finished import finished_results
from heliodor.engines.vasp_recipe import VaspRecipe

pytestmark = pytest.mark.filterwarnings("ignore")

FCC = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
ROCK_SALT = Structure(
    Lattice.cubic(4.21), ["Mg"] * 4 + ["O"] * 4, FCC + [[x + 0.5, y, z] for x, y, z in FCC]
)
ZINCBLENDE = Structure(
    Lattice.cubic(4.6), ["Mg"] * 4 + ["O"] * 4, FCC + [[x + 0.25, y + 0.25, z + 0.25] for x, y, z in FCC]
)
TITLES = ["PAW_PBE Mg_pv 13Apr2007", "PAW_PBE O 08Apr2002"]
RECIPE = VaspRecipe()


@pytest.fixture
def engine() -> FlowEngine:
    return FlowEngine(RECIPE, VaspChoice(kind="vasp"))


@pytest.fixture
def ticket(engine, tmp_path) -> DftTicket:
    [made] = engine.prepare([from_structure(ROCK_SALT)], tmp_path / "dft")
    assert isinstance(made, DftTicket), made
    return made


@pytest.fixture
def came_back(vasp_outputs, ticket) -> Any:
    """Puts a static calculation, as if run, into the ticket's folder."""

    def put(structure: Structure = ROCK_SALT, where: str = "vasp", **changes: Any) -> Path:
        made = RECIPE._maker.last_set().get_input_set(structure, potcar_spec=True)
        incar = Incar({**made["INCAR"], **changes.pop("incar", {})})
        place = Path(ticket.path) / where
        return vasp_outputs(place, structure, TITLES, incar, made["KPOINTS"], energy=-47.5, **changes)

    return put


def look(engine: FlowEngine, ticket: DftTicket) -> DftResult | Failure | None:
    return engine.run(ticket, threading.Event())


def test_read_once_and_kept(engine, ticket, came_back, tmp_path):
    assert look(engine, ticket) is None  # nothing has come back
    relaxed = ROCK_SALT.copy()
    relaxed.scale_lattice(ROCK_SALT.volume * 1.03)
    put = came_back(relaxed, "attempt-1/job_x")
    found = look(engine, ticket)
    assert isinstance(found, DftResult), found
    assert (found.key, found.energy) == (from_structure(ROCK_SALT).digest, -47.5)
    assert found.crystal.volume == pytest.approx(relaxed.volume)
    assert found.level == RECIPE.level(["Mg", "O"])
    assert found.entry is not None
    assert found.entry["potcar_spec"][0]["titel"] == TITLES[0]
    assert read_result(Path(ticket.path), ticket.input_digest) == found
    assert finished_results(tmp_path / "dft") == [found]
    for path in put.iterdir():  # nothing is read twice
        path.unlink()
    assert look(engine, ticket) == found


def test_inputs_changed_by_hand_stay_where_they_are(engine, ticket, came_back, tmp_path):
    came_back()
    incar = Path(ticket.path) / "vasp" / "INCAR"
    incar.write_text(incar.read_text() + "NCORE = 8\n")
    assert engine.prepare([from_structure(ROCK_SALT)], tmp_path / "dft") == [ticket]
    assert [p.name for p in (tmp_path / "dft").iterdir()] == [Path(ticket.path).name]
    assert isinstance(look(engine, ticket), DftResult)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"structure": ZINCBLENDE}, "is not the crystal that was asked for"),
        ({"incar": {"ENCUT": 400.0}}, "of another level: ENCUT is 400 eV"),
        ({"incar": {"NSW": 99, "IBRION": 2}}, "of another level: a relaxation"),
        ({"electronic": (100,)}, "the electrons did not converge"),
    ],
)
def test_what_is_no_result_is_said(engine, ticket, came_back, changes, words):
    came_back(**changes)
    found = look(engine, ticket)
    assert isinstance(found, Failure), found
    assert words in found.detail
    assert read_result(Path(ticket.path), ticket.input_digest) is None
    came_back()  # run again, properly
    assert isinstance(look(engine, ticket), DftResult)


def test_truncated_files(engine, ticket, came_back):
    file = came_back() / "vasprun.xml"
    whole = file.read_text()
    file.write_text(whole[: len(whole) // 2])
    found = look(engine, ticket)
    assert isinstance(found, Failure)
    assert "truncated" in found.detail


def test_what_calculate_left_on_the_cluster(engine, ticket, came_back):
    failure = Failure(ticket.key, Reason.DFT_KILLED, "the queue's time was up")
    write_failure(Path(ticket.path), ticket.input_digest, failure, 1)
    assert look(engine, ticket) == failure
    came_back(electronic=(100,))
    assert look(engine, ticket) == failure
    came_back()  # finished by hand after that
    assert isinstance(look(engine, ticket), DftResult)
    # A result of other inputs, copied into the wrong folder, is not taken.
    path = Path(ticket.path) / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "input_digest": "other"}))
    (Path(ticket.path) / "vasp" / "vasprun.xml").unlink()
    assert look(engine, ticket) == failure
