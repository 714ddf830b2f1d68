"""Relaxers with machine-learned interatomic potentials, one process per core or GPU."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import cast

from ..core.choices.relaxers import FirstStage, MlipChoice
from ..core.crystal import Crystal
from ..core.errors import InputError
from ..core.records import Evaluated, Failure, Relaxed
from .guards import check_input
from .messages import Order, Result
from .pool import WorkerPool
from .potentials import KNOWN, PotentialInfo, describe


class MlipRelaxer:
    """Relaxes atoms and cell of crystals to the nearest minimum of a potential; evaluates single points.

    On CPUs each worker process has one thread and one crystal, so that a crystal's result does not
    depend on the others; on a GPU one process relaxes a batch. Every crystal gives a `Relaxed`
    (converged or out of steps) or a `Failure` with its reason; a worker that dies fails only its own.

    Args:
        name: one of `potentials.KNOWN`, or "ase" with an `AseChoice`.
        settings: thresholds and limits.
        workers: worker processes when on CPUs.

    Raises:
        MissingError: the potential's package is not installed.
        InputError: an unknown name, a first stage with the same potential, a calculator that is not
            there, or fewer than one worker.
    """

    def __init__(self, name: str, settings: MlipChoice, workers: int = 1) -> None:
        self._info: PotentialInfo = describe(name, settings)
        if workers < 1:
            raise InputError(f"workers: got {workers}, must be at least 1")
        self.name = name
        self.model = self._info.model
        self.provenance = self._info.provenance()
        if settings.first is not None:
            self.provenance |= _first_provenance(settings.first, name)
        self._settings = settings
        self._workers = workers
        self._lock = threading.Lock()
        self._pools: list[WorkerPool] = []  # at most one; a list, so that the finalizer can share it
        weakref.finalize(self, _close, self._pools)

    @property
    def gpus(self) -> int:
        """GPUs of this machine that its workers compute on now."""
        return max((pool.gpus for pool in list(self._pools)), default=0)

    def supports(self, atomic_number: int) -> bool:
        """Whether the potential was trained on the element."""
        return atomic_number in self._info.elements

    def relax(
        self, batch: Sequence[Crystal], ceilings: Sequence[float | None] | None = None
    ) -> Iterator[Relaxed | Failure]:
        """Yields each as it finishes, in any order; work begins with the first `next`.

        Safe to call from several threads: they share the workers in turn. Closing the iterator early
        drops what is not begun.

        Args:
            batch: crystals.
            ceilings: eV of the cell in this potential's scheme, one per crystal; see
                `early_stop`. None: no limit.

        Raises:
            HeliodorError: the worker processes cannot start.
        """
        limits = [None] * len(batch) if ceilings is None else ceilings
        orders = [Order(c, "relax", limit) for c, limit in zip(batch, limits, strict=True)]
        yield from cast("Iterator[Relaxed | Failure]", self._run(orders, self._settings.max_atoms))

    def evaluate(self, batch: Sequence[Crystal]) -> Iterator[Evaluated | Failure]:
        """Energies, forces and stresses of crystals as they are, by the same workers and limits.

        Yields in any order; see `core.protocols.Evaluator`. Cells may be as large as the setting
        `max_supercell_atoms`.

        Raises:
            HeliodorError: the worker processes cannot start.
        """
        orders = [Order(crystal, "evaluate") for crystal in batch]
        limit = self._settings.max_supercell_atoms
        yield from cast("Iterator[Evaluated | Failure]", self._run(orders, limit))

    def close(self) -> None:
        """End the worker processes. The next `relax` starts new ones."""
        with self._lock:
            _close(self._pools)

    def _run(self, orders: Sequence[Order], max_atoms: int) -> Iterator[Result]:
        accepted = []
        for order in orders:
            refused = check_input(order.crystal, self._info.elements, max_atoms)
            if refused is None:
                accepted.append(order)
            else:
                yield refused
        if accepted:
            yield from self._pool().run(accepted)

    def _pool(self) -> WorkerPool:
        with self._lock:
            if self._pools and self._pools[0].closed:
                _close(self._pools)
            if not self._pools:
                self._pools.append(WorkerPool(self.name, self._settings, self._workers))
            return self._pools[0]


class ChgnetRelaxer(MlipRelaxer):
    """CHGNet 0.3.0 (Deng et al., Nat. Mach. Intell. 5, 1031 (2023))."""

    def __init__(self, settings: MlipChoice, workers: int = 1) -> None:
        super().__init__("chgnet", settings, workers)


class SevennetRelaxer(MlipRelaxer):
    """SevenNet-0 (Park et al., J. Chem. Theory Comput. 20, 4857 (2024))."""

    def __init__(self, settings: MlipChoice, workers: int = 1) -> None:
        super().__init__("sevennet", settings, workers)


def _first_provenance(first: FirstStage, name: str) -> dict[str, str]:
    if first.potential == name:
        raise InputError(
            f"relaxer.first: got {name!r}, the potential of the relaxation itself",
            hint="give a cheaper one; looser thresholds of the same are passed on the way anyway",
        )
    return {f"first_{k}": v for k, v in KNOWN[first.potential].provenance().items()}


def _close(pools: list[WorkerPool]) -> None:
    while pools:
        pools.pop().close()
