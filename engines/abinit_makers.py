"""atomate2's ABINIT Makers with what their documents lack: ionic steps, moment, gap, restarts that end.

Imported where a Flow is made, decoded or run; it needs atomate2 and abipy.
"""

from __future__ import annotations

import atexit
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from abipy.flowtk.nodes import save_lastnode_id
from atomate2.abinit.jobs.core import RelaxMaker, StaticMaker
from atomate2.abinit.schemas.calculation import TaskState
from jobflow.core.job import Response, job
from numpy.typing import NDArray

from .abinit_variables import HARTREE

# At its exit every process that imported abipy writes a counter into the home folder, which we do not
# use; where one was killed while it held the lock, all others wait ten seconds and end with an error.
atexit.unregister(save_lastnode_id)

_CROSSING = 1e-4  # hartree: less above or below the Fermi level is an edge, not a crossing


@dataclass
class AbinitRelax(RelaxMaker):
    """Relaxation of atoms and cell; one that ran out of steps goes on from where it was.

    Args:
        restarts: how often it goes on. atomate2 would also begin anew what had crashed.
    """

    restarts: int = 2

    @job
    def make(self, *args: Any, **kwargs: Any) -> Any:
        """See atomate2's `BaseAbinitMaker.make`."""
        return _with_facts(_plain(super().make)(self, *args, **kwargs))

    def get_response(
        self,
        task_document: Any,
        history: Any,
        max_restarts: int = 0,  # atomate2's own
        prev_outputs: Any = None,
    ) -> Response[Any]:
        """Go on, or end here: with success, or with a document that says what happened."""
        if task_document.state == TaskState.UNCONVERGED and history.run_number <= self.restarts:
            return super().get_response(task_document, history, max_restarts, prev_outputs)
        return _ended(task_document)


@dataclass
class AbinitStatic(StaticMaker):
    """A static calculation."""

    @job
    def make(self, *args: Any, **kwargs: Any) -> Any:
        """See atomate2's `BaseAbinitMaker.make`."""
        return _with_facts(_plain(super().make)(self, *args, **kwargs))

    def get_response(
        self, task_document: Any, history: Any, max_restarts: int = 0, prev_outputs: Any = None
    ) -> Response[Any]:
        """End here: what did not converge would not by the same means."""
        del history, max_restarts, prev_outputs
        return _ended(task_document)


def _plain(made: Any) -> Any:
    """The function that jobflow's decorator wraps."""
    return made.original


def _ended(document: Any) -> Response[Any]:
    return Response(output=document, stop_children=document.state != TaskState.SUCCESS)


def _with_facts(response: Response[Any]) -> Response[Any]:
    document = response.output
    facts = read_facts(Path(document.dir_name) / "outdata")
    response.output = document.model_copy(update={"additional_json": facts})
    return response


def read_facts(outdata: Path) -> dict[str, Any]:
    """What ABINIT's netCDF files say beyond atomate2's document.

    Returns:
        energy: eV, extrapolated from Gaussian smearing to none. steps: ionic steps (1 for a static
        calculation). magnetization: Bohr magneton of the cell, 0 without spin. band_gap: eV, between the
        highest occupied and the lowest empty level of both spins on the k-points computed; 0 where a
        band crosses the Fermi level.
    """
    import netCDF4

    with netCDF4.Dataset(outdata / "out_GSR.nc") as file:
        energies = np.asarray(file["eigenvalues"][:], dtype=float)  # (spin, k-point, band), hartree
        occupations = np.asarray(file["occupations"][:], dtype=float)
        weights = np.asarray(file["kpoint_weights"][:], dtype=float)
        fermi = float(file["fermi_energy"][...])
        free_energy, entropy_term = (float(file[name][...]) for name in ("etotal", "e_entropy"))  # -TS
    electrons = np.einsum("skb,k->s", occupations, weights)
    history = outdata / "out_HIST.nc"
    steps = 1
    if history.is_file():
        with netCDF4.Dataset(history) as file:
            steps = int(file.dimensions["time"].size)
    return {
        "energy": (free_energy - entropy_term / 2) * HARTREE,
        "steps": steps,
        "magnetization": float(electrons[0] - electrons[-1]),
        "band_gap": band_gap(energies, fermi) * HARTREE,
    }


def band_gap(energies: NDArray[np.float64], fermi: float) -> float:
    """The gap in the unit of `energies` (spin, k-point, band); 0 for a metal."""
    low, high = energies.min(axis=1), energies.max(axis=1)
    crossing = (low < fermi - _CROSSING) & (high > fermi + _CROSSING)
    above = energies[energies > fermi]
    if crossing.any() or not above.size:
        return 0.0
    return max(0.0, float(above.min() - energies[energies <= fermi].max()))
