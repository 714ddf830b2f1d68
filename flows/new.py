"""The campaign file that `heliodor new` writes: commented, valid, ready to run."""

from __future__ import annotations

import re
import shlex

TEMPLATE = """\
# A Heliodor campaign. Run it:       heliodor run {file}
# Stop it at any time (Ctrl-C, reboot, kill): the same command goes on where it stopped.
# All keys and what they allow:      heliodor schema

name: {name}          # identifies the campaign in its ledger
seed: 0               # same file and seed, same candidates and verdicts

space:
  {elements}
  subsystems: false   # true: also crystals with only some of the elements
  max_atoms: 20       # atoms in the proposed cell
  # formula: LiFePO4  # search polymorphs of one formula instead

generator:
{generator}

screen:               # what is valid, and when two crystals are the same
  charge_neutral: true
  ltol: 0.2           # pymatgen StructureMatcher
  stol: 0.3
  angle_tol: 5

relaxer:
  kind: chgnet        # chgnet | sevennet | sevennet-mf | ase (any ASE calculator) | none
  fmax: 0.05          # eV/angstrom
  max_steps: 300
  time_limit: 120     # seconds per crystal

reference:
  kind: embedded      # embedded | mp (Materials Project, needs MP_API_KEY once) | file (path: ...)
  # energies: own     # mp and file: known phases computed with the relaxer's potential, not by DFT

review:               # columns that decide nothing
  scores: true        # distances to what is known, synthesis, supply
  # potentials: [sevennet]     # second opinions on the energy above the hull
  # phonons: true     # of what lies within `within` eV/atom of the hull
  # elastic: true

select:               # which crystals become DFT jobs: SUN crystals, lowest energy first
  max_energy_above_hull: 0.1   # eV/atom
  top: 10

dft:
  kind: vasp          # vasp (inputs and atomate2 Flows with MP settings) | none

budget:               # the first limit that is reached ends the campaign
  candidates: 200
  round_size: 100
  # hours: 8
  # sun: 20           # stop when so many SUN crystals are found
"""

_EXAMPLE = ("Li", "O", "Ti")

GENERATORS = {
    "diffusion": """\
  kind: diffusion     # diffusion | substitution | random | files | plugin
  mode: fast          # fast | quality (three times the steps)
  symmetric: true     # within the space groups and orbits of known crystals
  charge_balanced: true   # only compositions that oxidation states can balance
  # spacegroups: [225, 221]
  # crystal_system: cubic
  # n_elements: 3
  # min_atoms: 4      # the model makes cells of up to 20 atoms
  # properties: {bulk_modulus: [150, 250]}   # a value, or a range to draw from
  # guidance: 2       # weight of the properties
  # planar: {lattice: kagome, element: V}    # held while the rest is made
  # around: {paths: [known.cif], level: 0.5} # explore around known crystals
  # weights: model.safetensors               # another model; this one ships""",
    "substitution": """\
  kind: substitution  # diffusion | substitution | random | files | plugin
  prototypes: aflow   # or a file of structures (Parquet, pymatgen JSON)
  charge_balanced: true""",
    "random": """\
  kind: random        # diffusion | substitution | random | files | plugin
  charge_balanced: true
  # spacegroups: [225, 62]""",
    "files": """\
  kind: files         # diffusion | substitution | random | files | plugin
  paths: [structures/]  # CIF, POSCAR, extxyz, pymatgen JSON; folders and zip archives of them""",
}


def campaign_text(name: str, elements: tuple[str, ...], generator: str, file: str) -> str:
    """The commented campaign file. What a campaign's name cannot hold becomes a hyphen.

    Args:
        elements: to search in; empty: any for the diffusion model, an example for the others.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:64] or "campaign"
    if elements or generator != "diffusion":
        symbols = ", ".join(elements or _EXAMPLE)
        space = f"elements: [{symbols}]      # nothing outside is ever proposed"
    else:
        space = f"# elements: [{', '.join(_EXAMPLE)}]   # any are proposed where none are given"
    return TEMPLATE.format(
        name=name, elements=space, generator=GENERATORS[generator], file=shlex.quote(file)
    )
