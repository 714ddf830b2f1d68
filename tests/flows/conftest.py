"""A real Prefect server for the flow tests, and the command line as a subprocess."""

from __future__ import annotations

import json
import os
import runpy
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from ase.build import bulk
from pymatgen.entries.computed_entries import ComputedStructureEntry
from pymatgen.io.ase import AseAtomsAdaptor


@pytest.fixture(scope="session")
def prefect_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server of our own on loopback; gives its API URL."""
    module = runpy.run_path(str(Path(__file__).parents[1] / "prefect_server.py"))
    with module["prefect_server"](tmp_path_factory.mktemp("prefect")) as server:
        yield server.url


@pytest.fixture
def environment(prefect_url: str, tmp_path: Path) -> dict[str, str]:
    """The environment of a command: our Prefect server, two workers, no keys."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HELIODOR_", "PREFECT_", "MP_API"))}
    return {
        **kept,
        "PREFECT_API_URL": prefect_url,
        "PREFECT_HOME": str(tmp_path / "prefect-home"),
        "HELIODOR_WORKERS": "2",
        "HELIODOR_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }


Heliodor = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def heliodor(environment: dict[str, str], tmp_path: Path) -> Heliodor:
    """Runs the command line; keyword arguments are added to the environment."""

    def call(*arguments: object, **extra: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "heliodor.cli", *map(str, arguments)]
        return subprocess.run(
            command,
            env={**environment, **extra},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=800,
            check=False,
        )

    return call


Recorded = Callable[[Path, str], int]


@pytest.fixture
def recorded() -> Recorded:
    """How many outcomes of a stage the ledger in a folder holds: what to wait for before a kill."""

    def count(folder: Path, stage: str) -> int:
        path = folder / "ledger.sqlite"
        if not path.is_file():
            return 0
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as ledger:
            try:
                rows = ledger.execute("select count(*) from outcome where stage = ?", [stage])
                return int(rows.fetchone()[0])
            except sqlite3.OperationalError:  # not made yet
                return 0

    return count


@pytest.fixture
def write_campaign(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small real campaign: few atoms, a soft threshold, seconds of work."""

    def write(name: str, **changes: object) -> Path:
        content = {
            "name": name,
            "seed": 3,
            "space": {"elements": ["Na", "Cl", "Mg"], "max_atoms": 6, "subsystems": True},
            "generator": {"kind": "substitution"},
            "relaxer": {"kind": "chgnet", "fmax": 0.1, "max_steps": 60},
            "select": {"max_energy_above_hull": 0.1, "top": 2},
            "budget": {"candidates": 24, "round_size": 12},
            **changes,
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


ALLOYS = ("Al", "Au", "Cu", "Ni")


@pytest.fixture
def write_alloys(tmp_path: Path, write_campaign: Callable[..., Path]) -> Callable[..., Path]:
    """As `write_campaign`: alloys by effective medium theory, on its own hull. Workers start at once."""
    elements = [
        ComputedStructureEntry(AseAtomsAdaptor.get_structure(bulk(symbol, "fcc")), 0.0, entry_id=symbol)
        for symbol in ALLOYS
    ]
    known = tmp_path / "elements.json"
    known.write_text(json.dumps([entry.as_dict() for entry in elements]))

    def write(name: str, **changes: object) -> Path:
        relaxer = {
            "kind": "ase",
            "calculator": "ase.calculators.emt:EMT",
            "model": "emt",
            "corrections": "own",
            "cutoff": 5.0,
            "fmax": 0.1,
            "max_steps": 60,
        }
        content = {
            "space": {"elements": list(ALLOYS), "max_atoms": 8, "subsystems": True},
            "generator": {"kind": "substitution", "charge_balanced": False},
            "relaxer": {**relaxer, "elements": list(ALLOYS)},
            "reference": {"kind": "file", "path": str(known), "energies": "own"},
            "review": {"scores": False},
        }
        return write_campaign(name, **{**content, **changes})

    return write
