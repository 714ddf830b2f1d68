"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
import runpy
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from pymatgen.symmetry.groups import SpaceGroup

from heliodor.core.crystal import Crystal

# One thread a process: more are slower for small crystals, and the tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")

LIMIT = 300  # seconds, the `timeout` of pyproject.toml


def _keep_space_groups() -> None:
    """pymatgen forgets a space group when nobody holds it, and makes an Fm-3m anew in 0.5 s."""
    make, kept = SpaceGroup.__new__, []

    def keep(cls: type[SpaceGroup], *arguments: Any, **named: Any) -> SpaceGroup:
        group = make(cls, *arguments, **named)
        kept.append(group)
        return group

    SpaceGroup.__new__ = keep  # type: ignore[method-assign,assignment]


_keep_space_groups()


def pytest_itemcollected(item: pytest.Item) -> None:
    """A file's fast tests go to one worker: what they share (a potential, a model) is made once.

    The slow ones spread over the workers, each by itself.
    """
    if not any(item.get_closest_marker(mark) for mark in ("slow", "xdist_group")):
        item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no worker ends alone."""

    def length(item: pytest.Item) -> float:
        if item.get_closest_marker("slow") is None:
            return 0
        limit = item.get_closest_marker("timeout")
        return float(limit.args[0]) if limit else LIMIT

    items.sort(key=length, reverse=True)


DATA = Path(
    os.environ.get("HELIODOR_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder of the structure tables; tests that take it are marked `shared`."""
    if not (DATA / "materials_project.parquet").is_file():
        pytest.skip(f"no structure tables at {DATA}; set HELIODOR_TEST_DATA")
    return DATA


@pytest.fixture(scope="session")
def mp_table(data_folder: Path) -> pd.DataFrame:
    """26,438 Materials Project crystals."""
    return pd.read_parquet(data_folder / "materials_project.parquet")


def _postgres_programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    program = shutil.which("initdb")
    return Path(program).parent if program else None


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A PostgreSQL server of our own on loopback; gives its URL without a database name."""
    programs = _postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    # PostgreSQL refuses to run as root; Debian's package brings the user.
    prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="heliodor-pg-"))  # short: the socket's path has a limit
    if prefix:
        shutil.chown(folder, "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def program(name: str, *arguments: str) -> None:
        command = [*prefix, str(programs / name), *arguments]
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL)

    data = str(folder / "data")
    program("initdb", "-D", data, "-U", "heliodor", "--auth=trust", "--no-sync")
    options = f"-p {port} -h 127.0.0.1 -k {folder} -c fsync=off"
    program("pg_ctl", "-D", data, "-o", options, "-w", "-l", str(folder / "log"), "start")
    try:
        yield f"postgresql+psycopg://heliodor@127.0.0.1:{port}"
    finally:
        program("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        for _ in range(20):
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(0.1)


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """URL of a new, empty database."""
    import psycopg

    name = f"ledger_{uuid.uuid4().hex[:8]}"
    address = postgres_server.replace("+psycopg", "")
    with psycopg.connect(f"{address}/postgres", autocommit=True) as connection:
        connection.execute(f'create database "{name}"')  # type: ignore[arg-type]
    return f"{postgres_server}/{name}"


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new ledger's URL, on both kinds of database in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


def crystal_of(spacegroup: str, a: float, species: list[str], coords: list[list[float]]) -> Crystal:
    """A cubic crystal from its space group, as a primitive cell."""
    from pymatgen.core import Lattice, Structure

    from heliodor.core.convert import from_structure

    structure = Structure.from_spacegroup(spacegroup, Lattice.cubic(a), species, coords)
    return from_structure(structure.get_primitive_structure())


@pytest.fixture(scope="session")
def mgo() -> Crystal:
    """MgO, rock salt, a = 4.21 angstrom."""
    return crystal_of("Fm-3m", 4.21, ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.fixture(scope="session")
def srtio3() -> Crystal:
    """SrTiO3, cubic perovskite, a = 3.905 angstrom."""
    return crystal_of("Pm-3m", 3.905, ["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]])


@pytest.fixture(scope="session")
def vasp_outputs() -> Any:
    """The function `write_outputs` of `vasp_files.py`."""
    pytest.importorskip("pymatgen")
    module = runpy.run_path(str(Path(__file__).with_name("vasp_files.py")))
    return module["write_outputs"]


@pytest.fixture(scope="session")
def mp_served() -> Iterator[SimpleNamespace]:
    """The Materials Project's server code on loopback, for the whole session; see `mp_server.py`."""
    pytest.importorskip("emmet.api", reason="emmet-api is not installed (extra dev)")
    module = runpy.run_path(str(Path(__file__).with_name("mp_server.py")))
    with module["serve"]() as (address, layer):
        yield SimpleNamespace(**module, address=address, layer=layer)


@pytest.fixture
def mp_server(mp_served: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """That server without faults, and mp-api sent there."""
    mp_served.layer.reset()
    monkeypatch.setenv("MP_API_ENDPOINT", mp_served.address)
    return mp_served


@pytest.fixture(scope="session")
def slurm_servers() -> Any:
    """The class `SlurmServer` of `slurm_server.py`."""
    module = runpy.run_path(str(Path(__file__).with_name("slurm_server.py")))
    if reason := module["why_not"]():
        pytest.skip(reason)
    return module["SlurmServer"]


@pytest.fixture(scope="session")
def slurm_server(slurm_servers: Any) -> Iterator[Any]:
    """A Slurm of our own, for the whole session."""
    with slurm_servers() as server:
        yield server


@pytest.fixture
def slurm(slurm_server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """That Slurm, and its programs sent there."""
    monkeypatch.setenv("SLURM_CONF", slurm_server.environment["SLURM_CONF"])
    return slurm_server
