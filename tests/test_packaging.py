from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest

import heliodor

ROOT = Path(__file__).resolve().parents[1]
NOT_SHIPPED = {"tests", "benchmarks", "examples", "build", "runs", "dist"}


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_sub_package_is_listed():
    found = {"heliodor"}
    for init in ROOT.rglob("__init__.py"):
        parts = init.relative_to(ROOT).parts[:-1]
        if parts and parts[0] not in NOT_SHIPPED and not parts[0].startswith("."):
            found.add(".".join(["heliodor", *parts]))
    assert set(project()["tool"]["setuptools"]["packages"]) == found


def test_only_modules_that_ship_lie_at_the_root():
    assert {p.name for p in ROOT.glob("*.py")} == {
        "__init__.py",
        "cli.py",
        "cli_deploy.py",
        "cli_generate.py",
        "cli_models.py",
        "cli_review.py",
        "cli_screen.py",
        "cli_tables.py",
        "cli_verify.py",
        "cli_watch.py",
        "testing.py",
    }


def loaded_by(code: str) -> set[str]:
    code += "; import sys; print(*sys.modules)"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )


@pytest.mark.parametrize(
    "module", ["heliodor", "heliodor.cli", "heliodor.core.ledger", "heliodor.core.campaign"]
)
def test_importing_stays_light(module):
    heavy = {"torch", "prefect", "pymatgen", "ase", "pandas", "atomate2", "mp_api"}
    assert not heavy & loaded_by(f"import {module}")


def test_help_waits_for_no_library_but_its_own():
    assert not {"numpy", "pydantic", "sqlalchemy"} & loaded_by("import heliodor.cli")


def test_the_command_line_knows_the_campaign_file_s_potentials():
    from heliodor.cli_review import Opinion
    from heliodor.core.choices.relaxers import PotentialName

    assert {opinion.value for opinion in Opinion} == set(get_args(PotentialName))


@pytest.mark.parametrize("room", ["generators", "validators", "engines", "report", "core"])
def test_nothing_below_tasks_imports_prefect_or_torch(room):
    names = [f"heliodor.{room}.{p.stem}" for p in (ROOT / room).glob("*.py") if p.stem != "__init__"]
    names = [name for name in names if name != "heliodor.engines.worker"]
    assert not {"prefect", "torch"} & loaded_by("import " + ", ".join(names))


def test_version_is_told():
    assert heliodor.__version__ == "0.1.0"
