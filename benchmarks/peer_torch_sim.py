"""Relaxes the crystals of a file with torch-sim and SevenNet-0, in an interpreter of its own.

torch-sim needs Python 3.12, so that `relaxation.py` starts this file with that interpreter and talks to it
through files: `peer_torch_sim.py IN.extxyz OUT.extxyz OPTIMISER FMAX SMAX STEPS`. Prints the seconds that
the relaxations took. The thresholds are those of everybody else: the largest force on an atom and the
largest component of the stress.
"""

from __future__ import annotations

import sys
import time
import warnings


def main(source: str, target: str, optimiser: str, fmax: float, smax: float, steps: int) -> None:
    warnings.simplefilter("ignore")
    import ase.io
    import torch
    import torch_sim as ts
    from torch_sim.models.sevennet import SevenNetModel

    torch.set_num_threads(1)
    crystals = ase.io.read(source, ":")
    model = SevenNetModel("7net-0", device="cpu")

    def converged(state, _last_energy=None):
        forces = ts.quantities.system_wise_max_force(state)
        return (forces <= fmax) & (state.stress.abs().amax(dim=(1, 2)) <= smax)

    def relax(batch, limit):
        # Batches of about ten crystals that refill after each step: the fastest found on a CPU core.
        batcher = ts.InFlightAutoBatcher(model, memory_scales_with="n_atoms", max_memory_scaler=100)
        return ts.optimize(
            batch,
            model,
            optimizer=ts.Optimizer(optimiser),
            convergence_fn=converged,
            max_steps=limit,
            steps_between_swaps=1,
            autobatcher=batcher,
            init_kwargs={"cell_filter": ts.CellFilter.frechet},
        )

    relax(crystals[:1], 2)  # what is compiled at first is not counted
    begin = time.perf_counter()
    state = relax(crystals, steps)
    seconds = time.perf_counter() - begin
    ase.io.write(target, state.to_atoms(), format="extxyz")
    print(seconds)


if __name__ == "__main__":
    first, second, third, *numbers = sys.argv[1:]
    main(first, second, third, float(numbers[0]), float(numbers[1]), int(numbers[2]))
