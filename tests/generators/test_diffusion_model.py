"""The network and the process: symmetries that hold by construction, and limits with exact answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heliodor.generators.diffusion.codes import element_codes
from heliodor.generators.diffusion.lattice import (
    cell_of,
    channels_of,
    channels_of_metric,
    metric_of,
    metric_rotation,
)
from heliodor.generators.diffusion.model import CrystalTransformer, Shape
from heliodor.generators.diffusion.plan import Plan, frame_of
from heliodor.generators.diffusion.process import Process, State, expected_shift
from heliodor.generators.diffusion.symmetry import p1

SHAPE = Shape(width=32, depth=2, heads=4, pair=16, harmonics=4)
ANY = np.ones(119, bool)


@pytest.fixture(scope="module")
def process():
    torch.manual_seed(0)
    made = Process(CrystalTransformer(SHAPE), torch.as_tensor(element_codes()))
    made.seen[1:90] = True
    for parameter in made.network.parameters():  # zero-initialised ends would hide every fault
        torch.nn.init.normal_(parameter, std=0.2)
    made.centre += torch.tensor([0.9, 0.9, 0.9, 0.0, 0.0, 0.0])
    made.scale *= 0.3
    return made.eval()


def state_of(n, b=3, seed=1):
    g = torch.Generator().manual_seed(seed)
    return State(
        torch.randn(b, n, 16, generator=g),
        torch.rand(b, n, 3, generator=g),
        torch.randn(b, 6, generator=g),
    )


def run(process, state, width=None, level=0.5):
    b, n = state.frac.shape[:2]
    frame = frame_of([Plan(p1(n), ANY)] * b, width or n, "cpu")
    pad = (width or n) - n
    state = State(
        torch.nn.functional.pad(state.codes, (0, 0, 0, pad)),
        torch.nn.functional.pad(state.frac, (0, 0, 0, pad)),
        state.channels,
    )
    t = torch.full((b,), level)
    with torch.no_grad():
        found = process.estimate(state, frame, t, t)
    return [part[:, :n] if part.dim() == 3 else part for part in found]


def close(a, b, tol=2e-4):
    for x, y in zip(a, b, strict=True):
        both = torch.isfinite(x)
        assert torch.equal(both, torch.isfinite(y))
        assert torch.allclose(x[both], y[both], atol=tol)


def test_origin_images_and_padding_do_not_matter(process):
    state = state_of(7)
    base = run(process, state)
    moved = state._replace(frac=state.frac + torch.tensor([0.31, -0.72, 5.0]))
    close(base, run(process, moved))
    images = state._replace(frac=state.frac + torch.randint(-3, 4, state.frac.shape))
    close(base, run(process, images))
    close(base, run(process, state, width=20))


def test_permutes_with_the_atoms(process):
    state = state_of(6)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    logits, shift, channels = run(process, state)
    permuted = run(process, State(state.codes[:, order], state.frac[:, order], state.channels))
    close([logits[:, order], shift[:, order], channels], permuted)


def test_the_crystals_of_a_batch_do_not_see_one_another(process):
    state = state_of(5, b=4)
    alone = run(process, State(*(part[:1] for part in state)))
    close(alone, [part[:1] for part in run(process, state)])


def test_rotating_a_crystal_changes_nothing():
    from scipy.spatial.transform import Rotation

    lattice = np.array([[4.1, 0.2, 0.0], [0.3, 5.2, 0.1], [-0.4, 0.6, 6.3]])
    turned = lattice @ Rotation.random(random_state=3).as_matrix()
    assert channels_of(lattice, 4) == pytest.approx(channels_of(turned, 4), abs=1e-12)
    assert channels_of(lattice, 4) == pytest.approx(channels_of(-turned, 4), abs=1e-12)  # mirrored


@given(st.lists(st.floats(-1, 1), min_size=6, max_size=6), st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_channels_cells_and_metrics_agree(values, n):
    channels = torch.tensor([values], dtype=torch.float64)
    atoms = torch.tensor([n])
    cell = cell_of(channels, atoms)
    assert channels_of(cell[0].numpy(), n) == pytest.approx(values, abs=1e-9)
    back = channels_of_metric(metric_of(cell), atoms)
    assert torch.allclose(back, channels, atol=1e-9)


def test_the_metric_turns_as_the_cell_does():
    rotation = np.array([[0, -1, 0], [1, -1, 0], [0, 0, 1]])  # threefold, hexagonal axes
    cell = torch.tensor([[[3.0, 0, 0], [-1.4, 2.6, 0], [0.2, 0.1, 5.0]]], dtype=torch.float64)
    full = (cell @ cell.transpose(-1, -2))[0].numpy()
    moved = rotation.T @ full @ rotation
    wanted = [moved[i, j] for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))]
    assert metric_rotation(rotation) @ metric_of(cell)[0].numpy() == pytest.approx(wanted)


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.3])
def test_expected_shift_is_the_score_of_the_wrapped_normal(sigma):
    """sigma^2 d log p / dx of the density, by finite differences (arXiv:2309.04475, eq. 7)."""

    def log_p(x):
        images = x + np.arange(-20, 21)
        return np.log(np.exp(-(images**2) / (2 * sigma**2)).sum())

    for x in (-0.45, -0.2, 0.05, 0.31):
        score = (log_p(x + 1e-5) - log_p(x - 1e-5)) / 2e-5
        found = expected_shift(torch.full((3,), -x), torch.full((3,), sigma**2))
        assert found.numpy() == pytest.approx(sigma**2 * score, abs=2e-4)


def test_banned_elements_have_no_probability(process):
    n, b = 4, 2
    state, t = state_of(n, b), torch.full((b,), 0.9)
    banned = torch.ones(b, n, 119, dtype=torch.bool)
    banned[:, :, [3, 8, 22]] = False
    frame = frame_of([Plan(p1(n), ANY)] * b, n, "cpu")
    with torch.no_grad():
        p = process.estimate(state, frame, t, t, banned=banned).logits.softmax(-1)
    assert float(p[:, :, [3, 8, 22]].sum(-1).min()) == pytest.approx(1, abs=1e-6)
    assert float(p[banned].max()) == 0.0


def test_codes_tell_elements_apart():
    codes = element_codes()[1:95]
    gaps = np.linalg.norm(codes[:, None] - codes[None], axis=-1) + 100 * np.eye(94)
    assert codes.var(0).sum() == pytest.approx(16, rel=1e-3)
    assert gaps.min() > 1  # the smallest noise on types is 0.02
    assert gaps[7].argmin() + 1 == 9  # oxygen's nearest is fluorine
    assert {int(gaps[z - 1].argmin()) + 1 for z in (26, 27)} <= {25, 26, 27, 28}


def test_the_loss_of_a_network_that_knows_nothing():
    """With zeroed ends the network says 'uniform', 'no shift' and 'the prior': losses are known."""
    torch.manual_seed(0)
    made = Process(CrystalTransformer(SHAPE), torch.as_tensor(element_codes()))
    made.seen[1:90] = True
    b, n = 512, 4
    frame = frame_of([Plan(p1(n), ANY)] * b, n, "cpu")
    level = torch.full((b,), 0.35)
    numbers = torch.randint(1, 90, (b, n))
    with torch.no_grad():
        found = made.losses(numbers, torch.rand(b, n, 3), torch.randn(b, 6), frame, level, level)
    assert float(found["types"].mean()) == pytest.approx(np.log(89), rel=1e-5)
    assert float(found["cell"].mean()) == pytest.approx(1.0, abs=0.05)
    assert float(found["coords"].mean()) == pytest.approx(1.0, abs=0.1)
