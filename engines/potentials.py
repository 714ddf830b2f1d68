"""The potentials: what is known about each, and what a loaded one answers.

`describe` is for everyone; `load` imports the package that holds the potential, which only worker
processes do.

Conventions: energy in eV of the whole cell; forces (n, 3) in eV/angstrom; stress (3, 3) in
eV/angstrom^3, symmetric, (1/V) dE/d(strain), so that it is positive where the crystal wants to shrink
(ASE's sign). Rows of the lattice are the cell vectors.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.choices.relaxers import AseChoice, MlipChoice
from ..core.crystal import Crystal
from ..core.errors import InputError, MissingError, missing_extra
from .neighbors import Neighbors

MPTRJ_ELEMENTS = frozenset([*range(1, 84), *range(89, 95)])
"""The 89 elements of the MPtrj set (Deng et al., Nat. Mach. Intell. 5, 1031 (2023)), on which CHGNet
0.3.0 and SevenNet-0 were trained: H to Bi, and Ac to Pu. CHGNet has rows for Po to Ra as well, but they
were never trained and give nonsense."""


class PotentialInfo(Protocol):
    """Facts about a potential that can be had without loading it."""

    @property
    def model(self) -> str:
        """Name and version for the records."""
        ...

    @property
    def elements(self) -> AbstractSet[int]:
        """Atomic numbers that it was trained on."""
        ...

    @property
    def energies(self) -> tuple[float, float]:
        """Lowest and highest energy that a crystal can have in its scheme, eV/atom."""
        ...

    def provenance(self) -> dict[str, str]:
        """Versions and digests.

        Raises:
            HeliodorError: the potential is not there.
        """
        ...


@dataclass(frozen=True)
class PackagedInfo:
    """A potential whose weights come with a Python package.

    Args:
        model, elements, energies: see `PotentialInfo`.
        package, extra: Python package that holds code and weights, and our extra that installs it.
        weights: path of the weights in the package.
        channel: of a multi-fidelity model, by the name in its package.
    """

    model: str
    package: str
    extra: str
    weights: str
    elements: frozenset[int] = MPTRJ_ELEMENTS
    energies: tuple[float, float] = (-30.0, 10.0)
    channel: str | None = None

    def provenance(self) -> dict[str, str]:
        """Version of the package and digest of the weights.

        Raises:
            MissingError: the package is not installed, or its weights are gone.
        """
        found = find_spec(self.package)
        if found is None or found.origin is None or find_spec("torch") is None:
            raise missing_extra(self.package if found is None else "torch", self.extra)
        weights = Path(found.origin).parent / self.weights
        if not weights.is_file():
            raise MissingError(
                f"the weights of {self.package} are not in its package ({weights.name})",
                hint=f"pip install --force-reinstall {self.package}",
            )
        return {
            "model": self.model,
            "package": f"{self.package} {metadata.version(self.package)}",
            "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        }


_SEVENNET_MF = ("sevenn", "sevennet", "pretrained_potentials/SevenNet_MF_0/checkpoint_sevennet_mf_0.pth")

KNOWN = {
    "chgnet": PackagedInfo(
        "chgnet-0.3.0", "chgnet", "chgnet", "pretrained/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar"
    ),
    "sevennet": PackagedInfo(
        "sevennet-0",
        "sevenn",
        "sevennet",
        "pretrained_potentials/SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
    ),
    "sevennet-mf-pbe": PackagedInfo("sevennet-mf-0-pbe", *_SEVENNET_MF, channel="PBE"),
    "sevennet-mf-r2scan": PackagedInfo(
        "sevennet-mf-0-r2scan",
        *_SEVENNET_MF,
        elements=MPTRJ_ELEMENTS - {70},  # no Yb in its r2SCAN set: its energy there was left at zero
        energies=(-100.0, 10.0),  # absolute: its reference atoms lie at -0.3 (He) to -89 eV (Pu)
        channel="R2SCAN",
    ),
}
"""Potentials by the name that `MlipChoice.potential` and `first:` give them."""


@dataclass(frozen=True)
class Evaluation:
    """Energy (eV), forces (n, 3) (eV/angstrom) and stress (3, 3) (eV/angstrom^3) of one crystal."""

    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64]


class Potential(Protocol):
    """An interatomic potential, loaded."""

    cutoff: float  # angstrom; an atom without a neighbour within it is invisible to the potential

    def evaluate(self, batch: Sequence[tuple[Crystal, Neighbors]]) -> list[Evaluation]:
        """One evaluation per crystal; `Neighbors` are those within `cutoff`, none isolated."""
        ...


@dataclass(frozen=True)
class Loaded:
    """A potential in the memory of a worker, with what is known of it."""

    info: PotentialInfo
    potential: Potential


def describe(name: str, settings: MlipChoice) -> PotentialInfo:
    """Facts about a potential: one of `KNOWN`, or "ase" with the settings that name the calculator.

    Raises:
        InputError: no such potential; a calculator that is not there.
    """
    if isinstance(settings, AseChoice):
        from .calculator import CalculatorInfo

        return CalculatorInfo(settings)
    if name not in KNOWN:
        raise InputError(f"no potential {name!r}", hint=f"there are {', '.join(KNOWN)}")
    return KNOWN[name]


def load(name: str, device: str, settings: MlipChoice) -> Loaded:
    """Load a potential onto a torch device ("cpu", "cuda:0", ...).

    Raises:
        InputError: the calculator that the settings name cannot be made or lacks the stress.
    """
    info = describe(name, settings)
    if isinstance(settings, AseChoice):
        from .calculator import CalculatorPotential

        return Loaded(info, CalculatorPotential(settings))
    if name == "chgnet":
        from .chgnet import Chgnet

        return Loaded(info, Chgnet(device))
    from .sevennet import Sevennet

    checkpoint = "7net-0" if name == "sevennet" else "7net-mf-0"
    return Loaded(info, Sevennet(device, checkpoint, KNOWN[name].channel))


def as_array(tensor: Any) -> NDArray[np.float64]:
    """A torch tensor in double precision, off its device."""
    return np.asarray(tensor.detach().cpu().numpy(), dtype=np.float64)


def free_memory() -> None:
    """Give cached memory of a GPU back after it ran out."""
    torch = sys.modules.get("torch")  # not every calculator needs it
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
