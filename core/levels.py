"""Levels of theory: what decides an energy apart from the crystal, and what it may be compared with.

An energy per atom means nothing by itself. Two energies may stand on one convex hull only if they were
computed by the same code with the same functional, pseudopotentials, cutoff and k-point density, or if a
published correction scheme joins them (MaterialsProject2020Compatibility for VASP with the Materials
Project's settings). So every energy carries its level, and a hull takes entries of one level only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Hull = Literal["GGA_GGA+U", "R2SCAN", "own"]
"""The Materials Project's hulls by thermo type; `own`: phases computed at the same level only."""


@dataclass(frozen=True)
class Level:
    """A level of theory.

    Args:
        code: program and version, for example "abinit-9.6.2"; for a potential its model name.
        functional: for example "PBE", "PBE/PBE+U", "r2SCAN".
        settings: all that decides an energy besides: pseudopotentials (by digest), cutoffs (eV),
            k-point density, smearing, spin. Sorted (name, value) pairs; see `of`.
        hull: which hull its energies may go on.
    """

    code: str
    functional: str
    settings: tuple[tuple[str, str], ...]
    hull: Hull

    @classmethod
    def of(cls, code: str, functional: str, hull: Hull, settings: Mapping[str, Any]) -> Level:
        """A level from plain JSON values."""
        pairs = sorted((name, json.dumps(value, sort_keys=True)) for name, value in settings.items())
        return cls(code, functional, tuple(pairs), hull)

    @property
    def digest(self) -> str:
        """First 16 digits of the SHA-256 of all fields: the same level, the same digest."""
        content = [self.code, self.functional, self.settings, self.hull]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """For people, for example "PBE, abinit-9.6.2 (level 3f2a…)"."""
        return f"{self.functional}, {self.code} (level {self.digest[:6]})"

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them back."""
        return {
            "code": self.code,
            "functional": self.functional,
            "hull": self.hull,
            "settings": {name: json.loads(value) for name, value in self.settings},
            "digest": self.digest,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Level:
        """What `as_dict` wrote."""
        return cls.of(content["code"], content["functional"], content["hull"], content["settings"])
