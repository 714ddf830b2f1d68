"""Training: it learns, survives a kill, repeats itself, and refuses what does not belong together."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pymatgen.core import Element, Lattice, Structure

from heliodor.core.errors import HeliodorError, InputError
from heliodor.generators.diffusion.checkpoint import load_process, read_tensors
from heliodor.generators.diffusion.data import Packed, pack
from heliodor.generators.diffusion.model import Shape
from heliodor.generators.diffusion.train import STATE, Settings, Trainer

TINY = Shape(width=64, depth=2, heads=4, pair=32)
PROTOTYPES = {  # space group, coordinates of A and B, bond length in units of a
    "rock salt": ("Fm-3m", [[0, 0, 0], [0.5, 0.5, 0.5]], 0.5),
    "caesium chloride": ("Pm-3m", [[0, 0, 0], [0.5, 0.5, 0.5]], 0.866),
    "zinc blende": ("F-43m", [[0, 0, 0], [0.25, 0.25, 0.25]], 0.433),
    "antifluorite": ("Fm-3m", [[0.25, 0.25, 0.25], [0, 0, 0]], 0.433),
}


@cache
def prototype(name: str) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) fractional coordinates, and (n,) whether B."""
    group, coords, _ = PROTOTYPES[name]
    made = Structure.from_spacegroup(group, Lattice.cubic(5), ["Na", "Cl"], coords)
    return made.frac_coords, np.array([site.specie.symbol == "Cl" for site in made])


def row(name: str, a: str, b: str) -> dict[str, object]:
    """A compound of two elements whose bond is the sum of their radii."""
    frac, is_b = prototype(name)
    length = float(Element(a).atomic_radius + Element(b).atomic_radius) / PROTOTYPES[name][2]
    return {
        "material_id": f"{a}{b} {name}",
        "atomic_numbers": np.where(is_b, Element(b).Z, Element(a).Z),
        "frac_coords": frac.ravel(),
        "lattice": (length * np.eye(3)).ravel(),
    }


def table(limit: int = 120) -> pd.DataFrame:
    """Binaries of metals and non-metals in four prototypes."""
    metals = "Li Na K Mg Ca Sr Ba Zn Cd Al Ga In".split()
    every = list(itertools.product(PROTOTYPES, metals, "O S Se F Cl".split()))
    return pd.DataFrame([row(*kinds) for kinds in every[::2][:limit]])


@pytest.fixture(scope="module")
def packed() -> Packed:
    return pack(table())


def settings(**changes: object) -> Settings:
    plain = {"minutes": 1.0, "batch": 32, "shape": TINY, "warmup": 20, "learning_rate": 3e-3}
    return Settings(**{**plain, **changes})  # type: ignore[arg-type]


def steps(trainer: Trainer, n: int) -> list[dict[str, float]]:
    """Train for n steps; the losses of each."""
    return [{k: float(v.detach()) for k, v in trainer._step().items()} for _ in range(n)]


def state_with(folder: Path, packed: Packed, n: int = 2, **changes: object) -> Trainer:
    trainer = Trainer(folder, packed, settings(**changes))
    steps(trainer, n)
    trainer.save()
    return trainer


@pytest.mark.slow
def test_losses_fall(tmp_path, packed):
    trainer = Trainer(tmp_path, packed, settings())
    before = trainer.held_out_losses(4)
    losses = steps(trainer, 150)
    after = {k: np.mean([x[k] for x in losses[-20:]]) for k in losses[0]}
    first = {k: np.mean([x[k] for x in losses[:5]]) for k in losses[0]}
    seen = int(trainer.process.seen.sum())
    assert first["types"] == pytest.approx(np.log(seen), rel=0.05), (
        "untrained, all seen elements are alike"
    )
    assert after["types"] < first["types"] - 0.5
    assert after["cell"] < 0.9 * first["cell"]
    assert trainer.held_out_losses(4)["types"] < before["types"]


def test_same_seed_same_losses(tmp_path, packed):
    one, two, other = (
        steps(Trainer(tmp_path / str(k), packed, settings(seed=seed)), 3)
        for k, seed in enumerate((0, 0, 1))
    )
    assert one == two
    assert one != other


def test_held_out_crystals_are_never_drawn(tmp_path, packed):
    trainer = Trainer(tmp_path, packed, settings())
    held = packed.held_out
    assert 0 < held.sum() < 0.2 * len(packed)
    assert trainer.test is not None
    assert len(trainer.data) == (~held).sum()
    assert len(trainer.test) == held.sum()
    allowed = {row.tobytes() for row in packed.channels[~held]}
    rng = np.random.default_rng(0)
    for _ in range(50):
        rows, _ = trainer.data.draw(rng, 64, "cpu")
        assert all(row.tobytes() in allowed for row in trainer.data.channels[rows].numpy())


def test_resumed_training_is_the_same_training(tmp_path, packed):
    whole = Trainer(tmp_path / "whole", packed, settings())
    steps(whole, 12)
    state_with(tmp_path / "cut", packed, 6)
    resumed = Trainer(tmp_path / "cut", packed, settings())
    assert resumed.step == 6
    steps(resumed, 6)
    for name, value in whole.process.state_dict().items():
        torch.testing.assert_close(resumed.process.state_dict()[name], value, msg=name)
    for name, value in whole.average.items():
        torch.testing.assert_close(resumed.average[name], value, msg=name)


CHILD = """
import sys
from pathlib import Path
from heliodor.generators.diffusion.data import Packed
from heliodor.generators.diffusion.model import Shape
from heliodor.generators.diffusion.train import Settings, Trainer
folder, packed, minutes = Path(sys.argv[1]), Packed.load(Path(sys.argv[2])), float(sys.argv[3])
shape = Shape(width=64, depth=2, heads=4, pair=32)
settings = Settings(minutes=minutes, batch=8, warmup=20, shape=shape, save_every=0.2)
trainer = Trainer(folder, packed, settings)
print("step", trainer.step, flush=True)
for _ in trainer.run():
    pass
print("end", trainer.step, trainer.seconds / 60, flush=True)
"""


@pytest.mark.slow
def test_killed_training_goes_on(tmp_path, packed):
    packed.save(tmp_path / "packed.npz")
    out = tmp_path / "out"
    command = [sys.executable, "-c", CHILD, str(out), str(tmp_path / "packed.npz")]
    child = subprocess.Popen([*command, "10"], cwd=tmp_path)
    deadline = time.monotonic() + 240
    while not (out / STATE).exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    child.send_signal(signal.SIGKILL)
    child.wait(60)
    saved = read_tensors(out / STATE)[1]
    assert saved["step"] > 0
    minutes = saved["seconds"] / 60 + 0.02
    done = subprocess.run(
        [*command, str(minutes)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert int(lines["step"]) == saved["step"]
    last, spent = lines["end"].split()
    assert int(last) > saved["step"]
    assert minutes <= float(spent) < minutes + 0.5, "it ends with the budget"


def test_other_settings_and_data_are_refused(tmp_path, packed):
    state_with(tmp_path, packed)
    with pytest.raises(InputError, match="batch: 32 there, 16 asked for"):
        Trainer(tmp_path, packed, settings(batch=16))
    with pytest.raises(InputError, match="other settings"):
        Trainer(tmp_path, packed, settings(shape=TINY._replace(depth=3)))
    with pytest.raises(InputError, match="other data"):
        Trainer(tmp_path, pack(table(60)), settings())
    assert Trainer(tmp_path, packed, settings(minutes=5.0)).step == 2, (
        "a longer budget is no other training"
    )


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_truncated_state_is_named(tmp_path, packed, share):
    state_with(tmp_path, packed)
    path = tmp_path / STATE
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=STATE):
        Trainer(tmp_path, packed, settings())


def test_weights_instead_of_a_state_are_named(tmp_path, packed):
    trainer = state_with(tmp_path, packed)
    trainer.save_model(tmp_path / STATE)
    with pytest.raises(InputError, match=r"state\.safetensors|other data"):
        Trainer(tmp_path, packed, settings())


def test_nan_ends_the_training_and_spares_the_state(tmp_path, packed):
    trainer = state_with(tmp_path, packed, save_every=0.0)
    before = (tmp_path / STATE).read_bytes()
    with torch.no_grad():
        trainer.parameters[0].fill_(torch.nan)
    with pytest.raises(HeliodorError, match=r"the loss became .*nan.* at step"):
        for _ in trainer.run():
            pass
    assert (tmp_path / STATE).read_bytes() == before
    assert Trainer(tmp_path, packed, settings(save_every=0.0)).step == 2


def test_cells_of_one_shape_do_not_divide_by_zero(tmp_path):
    rows = table()
    salts = rows[rows.material_id.str.contains("rock salt")]
    losses = steps(Trainer(tmp_path, pack(salts), settings()), 2)
    assert all(np.isfinite(list(x.values())).all() for x in losses)


def test_checkpoint_holds_the_averaged_weights(tmp_path, packed):
    trainer = state_with(tmp_path, packed, 5)
    trainer.notes["best"] = {"score": 0.5}
    process, card = load_process(trainer.save_model(tmp_path / "m.safetensors", extra=1))
    assert (card.step, card.samples, card.data) == (5, 160, packed.digest)
    assert card.notes["best"] == {"score": 0.5}
    assert card.notes["extra"] == 1
    for name, value in process.state_dict().items():
        torch.testing.assert_close(value, trainer.average[name], atol=2e-3, rtol=2e-3, msg=name)
