"""MatterGen's own denoiser and sampler, timed with random weights at the released size.

A separate interpreter runs this file, for mattergen 1.0.3 pins torch 2.2.1+cu118 and numpy < 2. On the CPU:

    python3.11 -m venv peer
    peer/bin/pip install --no-deps mattergen==1.0.3
    peer/bin/pip install torch==2.13.0 torch_geometric==2.8.1 pytorch-lightning==2.6.6 hydra-core==1.3.1 \
        omegaconf==2.3.0 numpy==1.26.4 pymatgen==2024.11.13 emmet-core==0.84.2 setuptools wheel
    FORCE_ONLY_CPU=1 peer/bin/pip install --no-build-isolation --no-deps torch_scatter==2.1.2 torch_sparse==0.6.18
    OMP_NUM_THREADS=1 peer/bin/python benchmarks/peer_mattergen.py --device cpu --batch 8 --atoms 10 20 --steps 3

The last `pip` compiles for many minutes (torch_sparse longest) and may be left out, in whole or in part: this
file then puts plain torch in the place of the few functions of torch_scatter and torch_sparse that sampling
calls, and names the two under "shimmed". `--device cuda` needs a CUDA build of torch, and those two compiled
for CUDA or left out.

The wheel ships no configuration, so the values below are those of the released base model; they make 44.6 M
parameters with this code (the published figure is 46.8 M). Weights change neither the shapes nor the
operations; the size of the neighbour graph does, so edges and triplets are reported. The published 1,000
steps are not run: `crystals_per_second` is the batch over 1,000 x the measured seconds of one step (one
corrector and one predictor, two network evaluations). On a machine that others use too, take the CPU seconds
of a one-thread run: waiting is not in them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import platform
import sys
import tempfile
import time
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

STEPS = 1000  # of the published sampler: sampling_conf/default.yaml, N
DENSITY = 0.05771451654022283  # atoms per cubic angstrom; checkpoints/mattergen_base/config.yaml


def main() -> None:
    arguments = parse()
    torch.manual_seed(0)
    missing = shim()
    with contextlib.redirect_stdout(sys.stderr):  # importing mattergen prints
        module = diffusion_module().to(arguments.device).eval()
    cuda = arguments.device == "cuda"
    report = {
        "model": "MatterGen 1.0.3, random weights",
        "parameters": sum(p.numel() for p in module.model.parameters()),
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "shimmed": missing,
        "extrapolated": f"crystals per second: {STEPS} x the measured time per step; no full run was made",
        "results": [measure(module, n, arguments) for n in arguments.atoms],
    }
    print(json.dumps(report, indent=2))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time MatterGen's network and sampler.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=8, help="crystals sampled together")
    parser.add_argument("--atoms", type=int, nargs="+", default=[10, 20], help="atoms in a crystal")
    parser.add_argument("--steps", type=int, default=3, help="sampler steps timed, at least 2")
    arguments = parser.parse_args()
    if arguments.steps < 2 or arguments.batch < 1 or min(arguments.atoms) < 1:
        parser.error("--steps must be at least 2, --batch and --atoms at least 1")
    return arguments


def measure(module, atoms: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds of a sampler step and of a network evaluation, for a batch of crystals of `atoms` atoms."""
    device, batch, steps = arguments.device, arguments.batch, arguments.steps
    conditions = blank(batch, atoms).to(device)
    calibrate(module, conditions)
    sampler(module, 2, device).sample(blank(1, atoms).to(device))  # loads the kernels
    state = None

    def sample() -> None:
        nonlocal state
        state, _ = sampler(module, steps, device).sample(conditions)

    step, step_cpu = (total / steps for total in seconds(sample, device))
    time_left = torch.full((batch,), 1 - steps / STEPS, device=device)
    with torch.no_grad():
        network, network_cpu = min(
            seconds(partial(module.model, state, time_left), device) for _ in range(2)
        )
        edges, triplets = graph_size(module.model.gemnet, state)
    return {
        "atoms_per_crystal": atoms,
        "batch": batch,
        "steps_timed": steps,
        "edges_per_atom": round(edges / (batch * atoms), 1),
        "triplets_per_edge": round(triplets / edges, 1),
        "seconds_per_network_evaluation": round(network, 4),
        "cpu_seconds_per_network_evaluation": round(network_cpu, 4),
        "seconds_per_step": round(step, 4),
        "cpu_seconds_per_step": round(step_cpu, 4),
        "crystals_per_second": float(f"{batch / (STEPS * step):.3g}"),
        "crystals_per_cpu_second": float(f"{batch / (STEPS * step_cpu):.3g}"),
    }


@torch.no_grad()
def calibrate(module, conditions) -> None:
    """Scale the network's cell output to unit noise, which is what a trained one predicts.

    The corrector's step goes with the inverse square of that output: untouched random weights blow up the cell
    in the first step, and then there are no neighbours to compute on.
    """
    from mattergen.diffusion.sampling.pc_sampler import _sample_prior

    state = _sample_prior(module.corruption, conditions, mask={})
    noise = module.model(state, torch.ones(len(state["cell"]), device=state["cell"].device))["cell"]
    for block in module.model.gemnet.lattice_out_blocks:
        block.out_forces.linear.weight /= noise.square().mean().sqrt()


def seconds(call: Callable[[], object], device: str) -> tuple[float, float]:
    """Wall and processor time of a call, with all that it queued on the device."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    wall, processor = time.perf_counter(), time.process_time()
    call()
    wait()
    return time.perf_counter() - wall, time.process_time() - processor


def graph_size(gemnet, state) -> tuple[int, int]:
    """Edges and triplets of the graph that the network builds of these crystals."""
    lattice, of_crystal = state["cell"], state.get_batch_idx("pos")
    cart_coords = torch.einsum("ni,nij->nj", state["pos"], lattice[of_crystal])
    graph = gemnet.generate_interaction_graph(cart_coords, lattice, state["num_atoms"], None, None, None)
    return graph[0].shape[1], len(graph[5])


def diffusion_module():
    """Network and noise as checkpoints/mattergen_base/config.yaml has them; the wheel ships no such file."""
    from mattergen.common.diffusion.corruption import LatticeVPSDE, NumAtomsVarianceAdjustedWrappedVESDE
    from mattergen.common.gemnet import gemnet
    from mattergen.common.gemnet.layers.embedding_block import AtomEmbedding
    from mattergen.common.loss import MaterialsLoss
    from mattergen.denoiser import GemNetTDenoiser
    from mattergen.diffusion.corruption.d3pm_corruption import D3PMCorruption
    from mattergen.diffusion.corruption.multi_corruption import MultiCorruption
    from mattergen.diffusion.d3pm.d3pm import MaskDiffusion, create_discrete_diffusion_schedule
    from mattergen.diffusion.diffusion_module import DiffusionModule

    with tempfile.TemporaryDirectory() as root:
        # The wheel lacks gemnet-dT.json, the fitted scale factors; without an entry a factor is 1.
        scales = Path(root) / "common/gemnet/gemnet-dT.json"
        scales.parent.mkdir(parents=True)
        scales.write_text("{}")
        gemnet.MODELS_PROJECT_ROOT = Path(root)
        network = gemnet.GemNetT(
            num_targets=1,
            latent_dim=512,
            atom_embedding=AtomEmbedding(emb_size=512, with_mask_type=True),
            emb_size_atom=512,
            emb_size_edge=512,
            num_blocks=4,
            cutoff=7.0,
            max_neighbors=50,
            max_cell_images_per_dim=5,
            otf_graph=True,
            regress_stress=True,
        )
    schedule = create_discrete_diffusion_schedule(kind="standard", num_steps=STEPS)
    return DiffusionModule(
        model=GemNetTDenoiser(
            network, hidden_dim=512, denoise_atom_types=True, atom_type_diffusion="mask"
        ),
        corruption=MultiCorruption(
            sdes={
                "cell": LatticeVPSDE(
                    beta_min=0.1, beta_max=20, limit_density=DENSITY, limit_var_scaling_constant=0.25
                ),
                "pos": NumAtomsVarianceAdjustedWrappedVESDE(
                    wrapping_boundary=1.0, sigma_max=5.0, limit_info_key="num_atoms"
                ),
            },
            discrete_corruptions={
                "atomic_numbers": D3PMCorruption(MaskDiffusion(dim=101, schedule=schedule), offset=1)
            },
        ),
        loss_fn=MaterialsLoss(
            reduce="sum",
            d3pm_hybrid_lambda=0.01,
            weights={"cell": 1.0, "pos": 0.1, "atomic_numbers": 1.0},
        ),
    )


def sampler(module, steps: int, device: str):
    """The published sampler (sampling_conf/default.yaml), made to stop after its first `steps` steps."""
    from mattergen.common.diffusion.predictors_correctors import (
        LatticeAncestralSamplingPredictor,
        LatticeLangevinDiffCorrector,
    )
    from mattergen.diffusion.d3pm.d3pm_predictors_correctors import D3PMAncestralSamplingPredictor
    from mattergen.diffusion.sampling.classifier_free_guidance import GuidedPredictorCorrector
    from mattergen.diffusion.wrapped.wrapped_predictors_correctors import (
        WrappedAncestralSamplingPredictor,
        WrappedLangevinCorrector,
    )
    from mattergen.property_embeddings import SetConditionalEmbeddingType, SetUnconditionalEmbeddingType

    made = GuidedPredictorCorrector(
        diffusion_module=module,
        device=torch.device(device),
        guidance_scale=0.0,
        remove_conditioning_fn=SetUnconditionalEmbeddingType(),
        keep_conditioning_fn=SetConditionalEmbeddingType(),
        predictor_partials={
            "pos": WrappedAncestralSamplingPredictor,
            "cell": LatticeAncestralSamplingPredictor,
            "atomic_numbers": partial(D3PMAncestralSamplingPredictor, predict_x0=True),
        },
        corrector_partials={
            "pos": partial(WrappedLangevinCorrector, max_step_size=1e6, snr=0.4),
            "cell": partial(LatticeLangevinDiffCorrector, max_step_size=1e6, snr=0.2),
        },
        n_steps_corrector=1,
        N=STEPS,
        eps_t=1 - (steps - 1) / STEPS,  # time runs from 1 by 1/1000, as in the full run
    )
    made.N = steps
    return made


def blank(batch: int, atoms: int):
    """The conditions of a batch: the number of atoms and nothing else."""
    from mattergen.common.data.condition_factory import get_number_of_atoms_condition_loader
    from mattergen.common.data.num_atoms_distribution import NUM_ATOMS_DISTRIBUTIONS

    NUM_ATOMS_DISTRIBUTIONS["fixed"] = {atoms: 1.0}
    (conditions, _), *_ = get_number_of_atoms_condition_loader("fixed", batch, batch)
    return conditions


def shim() -> list[str]:
    """Plain torch for what sampling needs of torch_scatter and torch_sparse where they are not installed."""
    ours = {
        "torch_scatter": {
            "scatter": scatter,
            "scatter_add": scatter,
            "segment_coo": scatter,
            "segment_csr": segment_csr,
        },
        "torch_sparse": {"SparseTensor": SparseTensor},
    }
    missing = [name for name in ours if importlib.util.find_spec(name) is None]
    for name in missing:
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(ours[name])
    return missing


def scatter(src, index, dim: int = -1, dim_size: int | None = None, reduce: str = "sum"):
    """Sums of the slices of `src` along `dim` that share an index."""
    if reduce not in ("sum", "add"):
        raise NotImplementedError(reduce)
    size = list(src.shape)
    size[dim] = int(index.max()) + 1 if dim_size is None else int(dim_size)
    return src.new_zeros(size).index_add_(dim % src.dim(), index, src)


def segment_csr(src, indptr, reduce: str = "sum"):
    """Sums of src[indptr[i]:indptr[i + 1]], one dimension."""
    rows = torch.arange(len(indptr) - 1, device=src.device).repeat_interleave(indptr.diff())
    return scatter(src[: int(indptr[-1])], rows, dim_size=len(indptr) - 1, reduce=reduce)


class SparseTensor:
    """A sparse square matrix, whose rows can be picked (with repeats) by `matrix[rows]`."""

    def __init__(self, row, col, value, sparse_sizes) -> None:
        width = int(sparse_sizes[1])
        self.value = value[(row * width + col).argsort(stable=True)]
        self.counts = torch.bincount(row, minlength=width)

    def __getitem__(self, rows) -> Rows:
        lengths, begins = self.counts[rows], (self.counts.cumsum(0) - self.counts)[rows]
        picked = torch.arange(len(rows), device=rows.device).repeat_interleave(lengths)
        within = torch.arange(len(picked), device=rows.device) - (lengths.cumsum(0) - lengths)[picked]
        return Rows(picked, self.value[begins[picked] + within])


class Rows:
    """Rows picked from a sparse matrix, read as torch_sparse lets them be read."""

    def __init__(self, row, value) -> None:
        self.storage = types.SimpleNamespace(row=lambda: row, value=lambda: value)

    def to(self, _device) -> Rows:
        return self  # mattergen moves only between cuda and cuda, or cpu and cpu


if __name__ == "__main__":
    main()
