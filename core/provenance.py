"""What made a result: recorded by the machine with every outcome."""

from __future__ import annotations

import hashlib
import json
import platform
import socket
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from typing import Any

from .. import __version__

_PACKAGES = ("pymatgen", "ase", "torch", "chgnet", "sevenn", "atomate2", "jobflow", "prefect", "numpy")


@lru_cache(maxsize=1)
def _machine() -> dict[str, Any]:
    versions = {"heliodor": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "hostname": socket.gethostname(),
        "platform": platform.platform(),
        "machine": platform.machine(),
    }


def provenance(
    settings_digest: str, extra: Mapping[str, Any] | None = None
) -> tuple[str, dict[str, Any]]:
    """(id, record): versions, machine, digest of the campaign's settings, and what the room adds.

    The id is the content's digest, so that the same circumstances are stored once.
    """
    record = {**_machine(), "settings": settings_digest, **(extra or {})}
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16], record
