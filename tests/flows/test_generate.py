"""`heliodor generate`: what is asked for, refused, counted and ranked; with an untrained network."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer
from pymatgen.symmetry.groups import SpaceGroup
from rich.console import Console

from heliodor import cli
from heliodor.cli_generate import parse_planar, parse_properties
from heliodor.core.campaign import parse_campaign
from heliodor.core.choices.relaxers import ChgnetChoice, NoRelaxerChoice
from heliodor.core.convert import from_structure, to_structure
from heliodor.core.crystal import Crystal
from heliodor.core.errors import InputError
from heliodor.core.records import Candidate, Failure, Origin, Reason, Relaxed
from heliodor.flows.obeyed import Answer, subgroups, tallies
from heliodor.flows.rank import Ranker

QUIET = Console(stderr=True)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Calls the command line in this process; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["heliodor", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        output = capsys.readouterr()
        assert "Traceback" not in output.err
        return int(caught.value.code or 0), output.out, output.err

    return call


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A small network that has learnt nothing: what it makes obeys by construction alone."""
    from heliodor.generators.diffusion.checkpoint import Card, save_process
    from heliodor.generators.diffusion.codes import element_codes
    from heliodor.generators.diffusion.model import CrystalTransformer, Shape
    from heliodor.generators.diffusion.process import Process

    torch.manual_seed(0)
    shape = Shape(width=32, depth=2, heads=4, pair=16)
    made = Process(CrystalTransformer(shape), torch.as_tensor(element_codes()))
    made.seen[1:90] = True
    made.centre += torch.tensor([0.9, 0.9, 0.9, -0.2, -0.2, -0.2])
    made.scale *= 0.05
    for parameter in made.network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    card = Card(shape=shape._asdict(), noise=made.noise._asdict())
    save_process(path, made.state_dict(), card)
    return path


def of(group, lattice, species, coords) -> Crystal:
    structure = Structure.from_spacegroup(group, lattice, species, coords)
    return from_structure(structure.get_primitive_structure())


ROCK_SALT = of("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
RUTILE = of("P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]])
KAGOME = of(  # CsV3Sb5, B. R. Ortiz et al., Phys. Rev. Mater. 3, 094407 (2019)
    "P6/mmm",
    Lattice.hexagonal(5.4949, 9.3085),
    ["Cs", "V", "Sb", "Sb"],
    [[0, 0, 0], [0.5, 0, 0.5], [0, 0, 0.5], [1 / 3, 2 / 3, 0.7421]],
)


# --- what was obeyed ---


def asked(generator=None, **space):
    content = {"name": "g", "generator": {"kind": "diffusion", **(generator or {})}, "space": space}
    return {tally.name: tally for tally in tallies(parse_campaign(content))}


@pytest.mark.parametrize(
    ("name", "request_", "crystal", "answer"),
    [
        ("elements", asked(elements="Na-Cl"), ROCK_SALT, "yes"),
        ("elements", asked(elements="Na-Cl-O"), ROCK_SALT, "no"),
        ("elements", asked(elements="Na-Cl-O", subsystems=True), ROCK_SALT, "yes"),
        ("elements", asked(elements="Na", subsystems=True), ROCK_SALT, "no"),
        ("formula", asked(formula="NaCl"), ROCK_SALT, "yes"),
        ("formula", asked(formula="Na2Cl"), ROCK_SALT, "no"),
        ("n_elements", asked({"n_elements": 2}), RUTILE, "yes"),
        ("n_elements", asked({"n_elements": 3}), RUTILE, "no"),
        ("atoms", asked(max_atoms=6), RUTILE, "yes"),
        ("atoms", asked(max_atoms=5), RUTILE, "no"),
        ("atoms", asked({"min_atoms": 6}), RUTILE, "yes"),
        ("atoms", asked({"min_atoms": 7}), RUTILE, "no"),
        ("spacegroup", asked({"spacegroups": [225]}), ROCK_SALT, "yes"),
        ("spacegroup", asked({"spacegroups": [166]}), ROCK_SALT, "higher"),
        ("spacegroup", asked({"spacegroups": [225]}), RUTILE, "no"),
        ("spacegroup", asked({"crystal_system": "tetragonal"}), RUTILE, "yes"),
        ("spacegroup", asked({"crystal_system": "tetragonal"}), ROCK_SALT, "higher"),
        ("spacegroup", asked({"crystal_system": "hexagonal"}), ROCK_SALT, "no"),
        ("planar", asked({"planar": {"lattice": "kagome", "element": "V"}}), KAGOME, "yes"),
        ("planar", asked({"planar": {"lattice": "honeycomb", "element": "V"}}), KAGOME, "no"),
    ],
)
def test_a_crystal_is_judged_by_itself(name, request_, crystal, answer):
    assert list(request_) == [name]
    assert request_[name].judge(crystal) == Answer(answer)


def test_nothing_is_counted_where_nothing_was_asked_for():
    assert asked() == {}


def test_a_broken_crystal_obeys_no_space_group():
    flat = Crystal(np.zeros((3, 3)), [[0, 0, 0]], [11])
    assert asked({"spacegroups": [225]})["spacegroup"].judge(flat) == Answer.NO


def test_the_text_of_a_tally():
    tally = asked({"spacegroups": [166, 225]})["spacegroup"]
    for crystal in (ROCK_SALT, RUTILE):
        tally.add(crystal)
    assert tally.text() == "space group 166 or 225: 1/2"
    tally = asked({"spacegroups": [166]})["spacegroup"]
    tally.add(ROCK_SALT)
    assert tally.text() == "space group 166: 0/1 (1 higher)"


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 230))
def test_subgroups_have_point_groups_that_divide(number):
    """Lagrange: the order of a subgroup's point group divides the group's; P1 is below every group."""
    order = len({op.rotation_matrix.tobytes() for op in SpaceGroup.from_int_number(number).symmetry_ops})
    assert 1 in subgroups(number)
    for below in list(subgroups(number))[:10]:
        ops = SpaceGroup.from_int_number(below).symmetry_ops
        assert order % len({op.rotation_matrix.tobytes() for op in ops}) == 0


# --- parsing ---


def test_properties_are_values_or_ranges():
    assert parse_properties(["a=2", "b = -1:3e2", "x=y.safetensors=1"]) == {
        "a": 2.0,
        "b": (-1.0, 300.0),
        "x=y.safetensors": 1.0,
    }


@pytest.mark.parametrize("text", ["a", "=2", "a=", "a=x", "a=1:", "a=2:1", "a=1:1", "a=nan", "a=1:2:3"])
def test_malformed_properties_are_refused(text):
    with pytest.raises(InputError, match="NAME=VALUE"):
        parse_properties([text])


def test_planar_lattices():
    assert parse_planar("kagome:V") == {"lattice": "kagome", "element": "V", "bond_length": None}
    assert parse_planar("kagome:V:2.7")["bond_length"] == 2.7
    for text in ("kagome", ":V", "kagome:", "kagome:V:", "kagome:V:x", "kagome:V:1:2"):
        with pytest.raises(InputError, match="LATTICE:ELEMENT"):
            parse_planar(text)


# --- the command ---


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--chemsys", "Li-Qq"], "no such element: 'Qq'"),
        (["--chemsys", "Og-O"], "the model has never seen Og"),
        (["--planar", "kagome:V", "--max-atoms", 2], "3 held sites"),
        (["--planar", "kagom:V"], "did you mean kagome?"),
        (["--planar", "kagome:O"], "no metallic radius is known for O"),
        (["--min-atoms", 25], "the model makes at most 20 atoms"),
        (["--min-atoms", 25, "--max-atoms", 30], "the model makes at most 20 atoms"),
        (["--formula", "Ca10P6O26H2"], "has 22 atoms"),
        (["--formula", "NaCl", "--spacegroup", 228], "space group 228 of NaCl"),
        (["--spacegroup", 231], "numbers from 1 to 230"),
        (["--spacegroup", 225, "--crystal-system", "hexagonal"], "are not hexagonal"),
        (["--crystal-system", "hex"], "should be 'triclinic'"),
        (["--chemsys", "Li-O", "--n-elements", 3], "n_elements: 3"),
        (["--property", "nothing=1"], "no adapter for 'nothing'"),
        (["--property", "nothing=1", "--property", "nothing=2"], "given twice"),
        (["--guidance", 3], "give --property"),
        (["--level", 0.3], "go with --around"),
        (["--around", "none.cif"], "no such file or folder: none.cif"),
        (["--mode", "slow"], "'fast' or 'quality'"),
        (["--device", "tpu"], "'auto', 'cpu' or 'cuda'"),
        (["--weights", "none.safetensors"], "no weights at none.safetensors"),
        (["--generator", "files"], "heliodor screen"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(run, weights, tmp_path, options, said):
    given_weights = () if "files" in options else ("--weights", weights)
    code, _, err = run("generate", "--out", "x.extxyz", *given_weights, *options)
    assert code == 2, err
    assert said in err
    assert not list(tmp_path.iterdir())


def test_options_of_the_diffusion_model_are_refused_by_the_others(run):
    options = ("--n-elements", 2, "--property", "a=1", "--no-symmetry", "--chemsys", "Li-O")
    code, _, err = run("generate", "--out", "x.cif", "--generator", "random", *options)
    assert code == 2
    assert "--no-symmetry, --n-elements, --property: not known to the generator 'random'" in err
    # The random generator has space groups too.
    options = ("--spacegroup", 225, "--chemsys", "Na-Cl", "-n", 2, "--max-atoms", 8, "--json")
    code, out, err = run("generate", "--out", "x.cif", "--generator", "random", *options)
    assert code == 0, err
    assert json.loads(out)["obeyed"]["spacegroup"]["of"] == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(run, weights):
    code, _, err = run("generate", "--out", "x.cif", "--weights", weights, "--device", "cuda")
    assert code == 3
    assert "finds no GPU" in err


def test_hostile_weights(run, weights, tmp_path):
    """Noise, a pickle in disguise, a truncated copy: refused, and nothing in them is executed."""
    whole = weights.read_bytes()
    torch.save({"a": torch.zeros(3)}, tmp_path / "pickle.safetensors")
    (tmp_path / "noise.safetensors").write_bytes(np.random.default_rng(0).bytes(10_000))
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    for name in ("pickle", "noise", "cut", "empty"):
        file = f"{name}.safetensors"
        code, _, err = run("generate", "--out", "x.cif", "--weights", file)
        assert code == 2, name
        assert f"{file} is not a readable checkpoint" in err
    assert not (tmp_path / "x.cif").exists()


def test_without_any_wish(run, weights, tmp_path):
    code, out, err = run("generate", "--out", "g.extxyz", "--weights", weights, "-n", 5)
    assert code == 0, err
    frames = ase.io.read(tmp_path / "g.extxyz", ":")
    assert f"wrote {len(frames)} crystals" in out
    assert "obeyed" not in out
    assert not list(tmp_path.glob("*_ranked*"))


def test_what_is_said_of_obedience_is_what_the_file_holds(run, weights, tmp_path):
    options = ("--chemsys", "Li-Ti-O", "--spacegroup", 221, "--max-atoms", 25, "-n", 8, "--json")
    code, out, err = run("generate", "--out", "g.extxyz", "--weights", weights, *options)
    assert code == 0, err
    said = json.loads(out)
    frames = ase.io.read(tmp_path / "g.extxyz", ":")
    assert said["written"] == len(frames) > 0
    crystals = [
        from_structure(Structure(f.cell[:], f.symbols, f.get_scaled_positions())) for f in frames
    ]
    assert all(c.elements == ("Li", "O", "Ti") for c in crystals)
    assert all(len(c) <= 20 for c in crystals)  # above 20 the limit is the model's
    for name in ("elements", "atoms"):
        assert said["obeyed"][name]["obeyed"] == said["obeyed"][name]["of"] == len(frames)
    numbers = [SpacegroupAnalyzer(to_structure(c), 0.1).get_space_group_number() for c in crystals]
    assert said["obeyed"]["spacegroup"]["obeyed"] == numbers.count(221)


def test_around_a_crystal_with_its_elements(run, weights, tmp_path):
    ase.io.write(tmp_path / "known.cif", to_structure(RUTILE).to_ase_atoms())
    options = ("--around", "known.cif", "--level", 0.2, "--keep-elements", "-n", 3)
    code, _, err = run("generate", "--out", "g.extxyz", "--weights", weights, *options)
    assert code == 0, err
    found = ase.io.read(tmp_path / "g.extxyz", ":")
    assert {frame.get_chemical_formula() for frame in found} == {"O4Ti2"}


# --- ranking ---


def candidate(index: int, crystal: Crystal) -> Candidate:
    return Candidate(crystal, Origin("test", "1", 0, index))


def scaled(crystal: Crystal, factor: float) -> Crystal:
    return Crystal(crystal.lattice * factor, crystal.frac_coords, crystal.atomic_numbers)


CSCL_TYPE = of("Pm-3m", Lattice.cubic(3.5), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])


@pytest.mark.slow
def test_polymorphs_of_salt_are_ranked(tmp_path):
    """Rock salt is the ground state of NaCl; both its copies are one phase, and a known one."""
    proposed = [CSCL_TYPE, scaled(ROCK_SALT, 1.03), scaled(ROCK_SALT, 0.98)]
    candidates = [candidate(i, crystal) for i, crystal in enumerate(proposed)]
    ranker = Ranker(ChgnetChoice(kind="chgnet"))
    ranking = ranker(candidates, tmp_path / "salt.extxyz", QUIET)
    first, second = ranking.rows
    assert (first.rank, first.spacegroup, first.times, first.known_as) == (1, 225, 2, "mp-22862")
    assert first.candidate.origin.index == 1
    assert first.energy_above_hull == pytest.approx(0, abs=0.05)
    assert (second.rank, second.spacegroup, second.times) == (2, 221, 1)
    assert 0.05 < second.energy_above_hull - first.energy_above_hull < 0.2
    table = pd.read_csv(tmp_path / "salt_ranked.csv")
    assert table["found"].tolist() == [2, 1]
    assert table["energy_per_atom"].is_monotonic_increasing
    frames = ase.io.read(tmp_path / "salt_ranked.extxyz", ":")
    assert frames[0].get_potential_energy() / 2 == pytest.approx(first.energy_per_atom)


class Stopped:
    """A relaxer that relaxes one crystal, fails at one, and is stopped at the third."""

    name = model = "chgnet-0.3.0"

    def relax(self, batch):
        yield Relaxed(batch[0].digest, batch[0], -6.0, 0.0, 0.0, 1, converged=True, model=self.model)
        yield Failure(batch[1].digest, Reason.EXPLODED)
        raise KeyboardInterrupt

    def close(self):
        self.closed = True


def test_a_ranking_that_is_stopped_keeps_what_is_done(tmp_path):
    ranker = Ranker(ChgnetChoice(kind="chgnet"))
    ranker.relaxer = Stopped()
    crystals = (ROCK_SALT, CSCL_TYPE, RUTILE)
    with pytest.raises(KeyboardInterrupt):
        ranker([candidate(i, c) for i, c in enumerate(crystals)], tmp_path / "s.extxyz", QUIET)
    assert ranker.relaxer.closed
    assert pd.read_csv(tmp_path / "s_ranked.csv")["formula"].tolist() == ["NaCl"]


def test_nothing_ranks_without_a_potential():
    with pytest.raises(InputError, match="no energies"):
        Ranker(NoRelaxerChoice(kind="none"))


@pytest.mark.slow
def test_a_formula_is_ranked_unless_told_otherwise(run, tmp_path):
    options = ("--generator", "substitution", "--formula", "NaCl", "--max-atoms", 2, "-n", 3)
    code, out, err = run("generate", "--out", "a.extxyz", *options, "--no-rank")
    assert code == 0, err
    assert not list(tmp_path.glob("*_ranked*"))
    assert "formula NaCl: " in out
    code, out, err = run("generate", "--out", "a.extxyz", *options, "--json")
    assert code == 0, err
    said = json.loads(out)
    above = [row["energy_above_hull"] for row in said["ranked"]]
    assert above == sorted(above)
    assert sum(row["found"] for row in said["ranked"]) + sum(
        said["relaxation_failures"].values()
    ) == len(ase.io.read(tmp_path / "a.extxyz", ":"))
    assert all(Path(file).is_file() for file in said["ranked_files"])
