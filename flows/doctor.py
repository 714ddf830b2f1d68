"""What is installed and what is missing on this machine, and what to do about each."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .. import __version__
from ..core.errors import HeliodorError
from ..core.settings import Settings, load_settings
from .doctor_cluster import cluster_checks, job_store_check
from .doctor_server import prefect_checks
from .finding import Check

if TYPE_CHECKING:
    from rich.console import Console

_EXTRAS = {
    "prefect": ("flows", "campaigns and screenings"),
    "safetensors": ("diffusion", "the diffusion generator"),
    "pyxtal": ("random", "the random generator"),
    "chgnet": ("chgnet", "relaxing with CHGNet"),
    "sevenn": ("sevennet", "relaxing with SevenNet-0"),
    "atomate2": ("vasp", "VASP inputs and Flows"),
    "abipy": ("abinit", "DFT with ABINIT"),
    "mp_api": ("mp", "the Materials Project as reference"),
    "psycopg": ("postgres", "a shared ledger on PostgreSQL"),
}
# Distribution names where they differ from the module's.
_DISTRIBUTIONS = {"mp_api": "mp-api"}
_WEIGHTS = {"chgnet": "*.pth.tar", "sevenn": "checkpoint_sevennet_0.pth"}
_MP_KEY_LENGTH = 32


def checks() -> list[Check]:
    """All checks; none of them stops the others."""
    try:
        settings = load_settings()
    except HeliodorError as error:
        return [Check("settings", "fail", error.message, "mend the environment variable")]
    return [
        *machine_checks(settings),
        job_store_check(),
        *prefect_checks(),
        *cluster_checks(settings),
        _ledger(settings),
    ]


def machine_checks(settings: Settings) -> list[Check]:
    """What a machine needs to compute, whether campaigns are run there or only jobs."""
    return [
        Check("heliodor", "ok", __version__),
        _python(),
        *(_extra(module, *about) for module, about in _EXTRAS.items()),
        *_pins(),
        *_weights(),
        _abinit(),
        _diffusion(),
        _gpu(),
        _embedded(),
        _key(settings),
        *_disk(settings),
    ]


def show(found: list[Check], console: Console) -> None:
    """The findings as a table."""
    from rich.table import Table

    marks = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]"}
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("", "what", "found", "what to do"):
        table.add_column(column)
    for check in found:
        table.add_row(marks[check.level], check.name, check.found, check.advice)
    console.print(table)


def _python() -> Check:
    return Check("Python", "ok", ".".join(map(str, sys.version_info[:3])))


def _extra(module: str, extra: str, purpose: str) -> Check:
    if find_spec(module) is None:
        level: Literal["warn", "fail"] = "fail" if module == "prefect" else "warn"
        return Check(module, level, f"not installed: no {purpose}", f"pip install 'heliodor[{extra}]'")
    return Check(module, "ok", metadata.version(_DISTRIBUTIONS.get(module, module)))


def _pins() -> Iterator[Check]:
    """Two versions that break Prefect 3.8 (its server; its scheduler)."""
    limits = {
        "fastapi": ((0, 151), "Prefect's server does not start"),
        "sqlalchemy": ((2, 1), "cron deployments get no runs"),
    }
    for package, (limit, fault) in limits.items():
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        if tuple(int(part) for part in version.split(".")[:2]) >= limit:
            below = ".".join(map(str, limit))
            yield Check(package, "fail", f"{version}: {fault}", f"pip install '{package}<{below}'")


def _weights() -> Iterator[Check]:
    for module, pattern in _WEIGHTS.items():
        spec = find_spec(module)
        if spec is None or not spec.submodule_search_locations:
            continue
        root = Path(next(iter(spec.submodule_search_locations)))
        files = [f for f in root.rglob(pattern) if f.stat().st_size > 100_000]
        if files:
            yield Check(
                f"{module} weights", "ok", f"{files[0].stat().st_size / 1e6:.1f} MB in the package"
            )
        else:
            yield Check(
                f"{module} weights", "warn", "missing", f"pip install --force-reinstall {module}"
            )


def _abinit() -> Check:
    from ..engines.abinit_program import version

    try:
        return Check("abinit program", "ok", version("abinit"))
    except HeliodorError as error:
        return Check("abinit program", "warn", error.message, error.hint or "")


def _diffusion() -> Check:
    """The model that ships, its templates and its property adapters."""
    from ..generators.diffusion.weights import TEMPLATES, default_weights, shipped_adapters

    name = "diffusion weights"
    missing = [path.name for path in (default_weights(), TEMPLATES) if not path.is_file()]
    if missing:
        return Check(name, "warn", f"missing: {', '.join(missing)}", "reinstall heliodor")
    size = default_weights().stat().st_size / 1e6
    adapters = ", ".join(shipped_adapters()) or "none"
    return Check(name, "ok", f"{size:.1f} MB in the package; properties: {adapters}")


def _gpu() -> Check:
    if find_spec("torch") is None:
        return Check("GPU", "warn", "PyTorch is not installed", "pip install 'heliodor[diffusion]'")
    import torch

    if torch.cuda.is_available():
        return Check("GPU", "ok", torch.cuda.get_device_name(0))
    if shutil.which("nvidia-smi"):
        return Check("GPU", "warn", "there, but PyTorch does not see it", "install PyTorch's CUDA build")
    return Check("GPU", "ok", f"none; relaxing on {os.cpu_count()} cores")


def _embedded() -> Check:
    try:
        from ..validators.reference_embedded import EmbeddedReference

        info = EmbeddedReference().info
    except (HeliodorError, OSError) as error:
        return Check("embedded reference", "fail", str(error), "reinstall heliodor")
    return Check("embedded reference", "ok", f"{info.n_phases:,} phases")


def _key(settings: Settings) -> Check:
    if settings.mp_api_key is None:
        return Check(
            "Materials Project key",
            "warn",
            "not set; the embedded reference works without",
            "export MP_API_KEY=... (from next-gen.materialsproject.org/api)",
        )
    length = len(settings.mp_api_key.get_secret_value())
    if length != _MP_KEY_LENGTH:
        return Check(
            "Materials Project key",
            "warn",
            f"{length} characters",
            f"keys have {_MP_KEY_LENGTH} characters",
        )
    return Check("Materials Project key", "ok", "set")


def _disk(settings: Settings) -> Iterator[Check]:
    for name, path in (("disk here", Path.cwd()), ("disk of the cache", settings.cache)):
        there = next(p for p in (path, *path.parents) if p.exists())
        free = shutil.disk_usage(there).free / 1e9
        if not os.access(there, os.W_OK):
            yield Check(
                name,
                "fail" if name == "disk here" else "warn",
                f"{there} is read-only",
                "work elsewhere",
            )
        elif free < 1:
            yield Check(name, "warn", f"{free:.1f} GB free on {there}", "free some space")
        else:
            yield Check(name, "ok", f"{free:.0f} GB free")


def _ledger(settings: Settings) -> Check:
    if settings.ledger_url is None:
        return Check("ledger", "ok", "a SQLite file in each run's folder")
    from ..core.database import Database

    try:
        database = Database(settings.ledger_url.get_secret_value())
    except HeliodorError as error:
        return Check("ledger", "fail", error.message, error.hint or "")
    return Check("ledger", "ok", str(database))
