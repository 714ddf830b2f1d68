"""Property adapters: nothing before training, the property after it, and only on their own base."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from pymatgen.core import Lattice, Structure  # noqa: E402
from rich.console import Console  # noqa: E402

from heliodor.core.errors import InputError  # noqa: E402
from heliodor.flows.finetune import finetune  # noqa: E402
from heliodor.generators.diffusion.adapter_training import AdapterSettings, AdapterTrainer  # noqa: E402
from heliodor.generators.diffusion.adapters import (  # noqa: E402
    Adapter,
    Scale,
    load_adapter,
    save_adapter,
    targets_for,
)
from heliodor.generators.diffusion.checkpoint import Card, load_process, save_process  # noqa: E402
from heliodor.generators.diffusion.codes import element_codes  # noqa: E402
from heliodor.generators.diffusion.data import pack  # noqa: E402
from heliodor.generators.diffusion.model import CrystalTransformer, Shape  # noqa: E402
from heliodor.generators.diffusion.process import Process, State  # noqa: E402
from heliodor.generators.diffusion.resident import Resident  # noqa: E402

SHAPE = Shape(width=32, depth=2, heads=2, pair=16, max_atoms=8)
SCALE = Scale("linear", 1.0, 30.0, 12.0, 5.0, 60.0)
# Rock salt and caesium chloride, cell edges in angstrom by the ionic radii of Shannon (1976).
CATIONS = {"Li": 0.76, "Na": 1.02, "K": 1.38, "Rb": 1.52, "Cs": 1.67, "Mg": 0.72, "Pb": 1.19}
ANIONS = {"F": 1.33, "Cl": 1.81, "Br": 1.96, "I": 2.2, "O": 1.4, "S": 1.84, "Se": 1.98, "Te": 2.21}


def binaries():
    for cation, plus in CATIONS.items():
        for anion, minus in ANIONS.items():
            edge = 2 * (plus + minus)
            for cell in (Lattice(edge / 2 * (1 - np.eye(3))), Lattice.cubic(edge / 3**0.5)):
                yield Structure(cell, [cation, anion], [[0] * 3, [0.5] * 3])


def table_of(structures) -> pd.DataFrame:
    rows = [
        {
            "material_id": f"b-{i}",
            "atomic_numbers": np.array(s.atomic_numbers),
            "frac_coords": s.frac_coords.ravel(),
            "lattice": s.lattice.matrix.ravel(),
            "mean_number": float(np.mean(s.atomic_numbers)),
            "rare": float(i) if i < 9 else np.nan,
            "same": 3.0,
        }
        for i, s in enumerate(structures)
    ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def table():
    return table_of(binaries())


@pytest.fixture(scope="module")
def packed(table):
    return pack(table, max_atoms=8)


def new_base(packed, seed=0) -> Process:
    torch.manual_seed(seed)
    process = Process(CrystalTransformer(SHAPE), torch.as_tensor(element_codes()))
    for name, p in process.named_parameters():  # its last layers begin at zero: nothing would show
        if name.startswith(("network.to_", "network.final", "network.modulation")):
            torch.nn.init.normal_(p, std=0.05)
    process.fit_scales(torch.as_tensor(packed.channels), torch.as_tensor(packed.numbers).long())
    return process.eval()


@pytest.fixture
def base(packed):
    return new_base(packed)


def trained(adapter: Adapter) -> Adapter:
    """As if trained: nothing is zero any more."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in adapter.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return adapter.eval().requires_grad_(False)


@pytest.fixture
def ask(packed, base):
    """The base's answer to one noisy batch."""
    data = Resident(packed, np.arange(6), SHAPE.max_atoms, "cpu")
    generator = torch.Generator().manual_seed(1)
    state = State(
        torch.randn(6, 8, 16, generator=generator),
        torch.rand(6, 8, 3, generator=generator),
        torch.randn(6, 6, generator=generator),
    )
    level = torch.linspace(0.1, 0.9, 6)

    @torch.no_grad()
    def estimate(extra=None):
        return base.estimate(state, data.frames, level, level, extra=extra)

    return estimate


def same(one, two) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_an_untrained_adapter_changes_nothing(base, ask):
    adapter = Adapter(SHAPE, "z", SCALE)
    free = ask()
    with adapter.attached(base, torch.linspace(0, 70, 6)) as extra:
        assert extra.shape == (6, SHAPE.width)
        assert same(ask(extra), free)


def test_a_trained_adapter_acts_within_the_block_only(base, ask):
    adapter = trained(Adapter(SHAPE, "z", SCALE))
    free = ask()
    with adapter.attached(base, torch.full((6,), 10.0)) as extra:
        low = ask(extra)
    with adapter.attached(base, torch.full((6,), 50.0)) as extra:
        high = ask(extra)
    assert not same(low, free)
    assert not same(low, high)
    assert same(ask(), free)


def test_values_far_out_are_those_of_the_end(base):
    adapter = trained(Adapter(SHAPE, "z", SCALE))
    edge, far, inside = adapter.encode(torch.tensor([SCALE.high + 20.0, 1e9, 40.0]))
    torch.testing.assert_close(edge, far)
    assert not torch.allclose(edge, inside)


def test_an_error_within_the_block_leaves_no_hook(base, ask):
    adapter = trained(Adapter(SHAPE, "z", SCALE))
    free = ask()
    with pytest.raises(ZeroDivisionError), adapter.attached(base, torch.ones(6)):
        raise ZeroDivisionError
    assert not any(m._forward_hooks for m in base.modules())
    assert same(ask(), free)


def test_two_adapters_side_by_side_do_not_meet(base, ask):
    one, two = (trained(Adapter(SHAPE, n, SCALE, rank=r)) for n, r in (("a", 4), ("b", 8)))
    with one.attached(base, torch.ones(6)) as extra:
        alone = ask(extra)
    with two.attached(base, torch.ones(6)):
        pass
    with one.attached(base, torch.ones(6)) as extra:
        assert same(ask(extra), alone)


def test_an_adapter_of_another_size_is_refused(base):
    adapter = Adapter(SHAPE._replace(width=64), "z", SCALE)
    with pytest.raises(ValueError, match="width=64"), adapter.attached(base, torch.ones(2)):
        pass


@pytest.mark.parametrize(
    ("values", "transform"),
    [
        (np.random.default_rng(0).normal(-1, 1, 500), "linear"),
        (np.random.default_rng(0).uniform(50, 90, 500), "linear"),
        (np.random.default_rng(0).exponential(0.02, 500), "log"),
        (np.where(np.arange(500) % 3, 0.0, np.random.default_rng(0).exponential(2, 500)), "log"),
    ],
)
def test_scale_suits_the_values(values, transform):
    scale = Scale.of(values)
    standard = scale.standard(torch.as_tensor(values))
    assert scale.transform == transform
    assert float(standard.mean()) == pytest.approx(0, abs=1e-9)
    assert float(standard.std(correction=0)) == pytest.approx(1)
    order = np.argsort(values)
    assert (np.diff(standard.numpy()[order]) >= 0).all()
    assert torch.isfinite(scale.standard(torch.tensor([-1e6, 1e6]))).all()


class TestTargets:
    adapter = Adapter(SHAPE, "bulk_modulus", SCALE)
    rng = np.random.default_rng(0)

    def test_a_value_stays(self):
        assert targets_for(17.5, self.adapter, self.rng) == 17.5
        assert targets_for(5, self.adapter, self.rng) == 5.0

    def test_a_range_is_drawn_from_where_it_was_seen(self):
        drawn = np.array([targets_for((40, 100), self.adapter, self.rng) for _ in range(300)])
        assert 40 <= drawn.min() < 41
        assert 59 < drawn.max() <= 60
        assert targets_for((50, float("inf")), self.adapter, self.rng) <= 60

    def test_a_little_beyond_is_told_once(self, caplog):
        for _ in range(3):
            assert targets_for(65.0, self.adapter, self.rng) == 65.0
            assert 70 <= targets_for((70, 90), self.adapter, self.rng) <= 71
        assert len(caplog.records) == 2
        assert "5 to 60" in caplog.text

    @pytest.mark.parametrize("target", [200.0, (100, 200), -20.0])
    def test_far_beyond_names_what_was_seen(self, target):
        with pytest.raises(InputError, match="bulk_modulus.*5 to 60"):
            targets_for(target, self.adapter, self.rng)

    @pytest.mark.parametrize("target", [(30, 20), (20, 20), float("nan"), (float("nan"), 3)])
    def test_no_value_and_no_range(self, target):
        with pytest.raises(InputError, match="lower to its upper"):
            targets_for(target, self.adapter, self.rng)


def test_saved_and_loaded(tmp_path, base, ask):
    adapter = trained(Adapter(SHAPE, "z", SCALE, rank=3))
    path = tmp_path / "z.safetensors"
    save_adapter(path, adapter, "ab" * 32, {"minutes": 1})
    again = load_adapter(path, Card(shape={}, noise={}, sha256="ab" * 32))
    assert (again.name, again.scale, again.rank) == ("z", SCALE, 3)
    answers = []
    for one in (adapter, again):
        with one.attached(base, torch.linspace(0, 70, 6)) as extra:
            answers.append(ask(extra))
    assert same(*answers)


def test_what_is_no_adapter_of_this_base_is_refused(tmp_path, base):
    path = tmp_path / "z.safetensors"
    save_adapter(path, Adapter(SHAPE, "z", SCALE), "ab" * 32, {})
    with pytest.raises(InputError, match="made for another base"):
        load_adapter(path, "cd" * 32)
    model = tmp_path / "base.safetensors"
    save_process(model, base.state_dict(), Card(SHAPE._asdict(), base.noise._asdict()))
    with pytest.raises(InputError, match="not a property adapter"):
        load_adapter(model, "ab" * 32)
    with pytest.raises(InputError, match="weights do not fit"):
        load_process(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a readable"):
        load_adapter(path, "ab" * 32)


def test_nan_and_wrong_sizes_are_refused(tmp_path):
    path = tmp_path / "z.safetensors"
    broken = Adapter(SHAPE, "z", SCALE)
    with torch.no_grad():
        broken.up_mlp[0, 0, 0] = float("nan")
    save_adapter(path, broken, "ab", {})
    with pytest.raises(InputError, match="NaN"):
        load_adapter(path, "ab")
    other = Adapter(SHAPE, "z", SCALE)
    other.rank = 5  # what the header will say
    save_adapter(path, other, "ab", {})
    with pytest.raises(InputError, match="do not fit the header"):
        load_adapter(path, "ab")


QUICK = AdapterSettings(batch=32, learning_rate=1e-2, warmup=10)


def test_training_learns_to_use_the_label(tmp_path, packed, base):
    before = {k: v.clone() for k, v in base.state_dict().items()}
    trainer = AdapterTrainer(tmp_path, packed, "mean_number", base, "ab", QUICK)
    at_first = trainer.held_out_losses(batches=8)
    assert at_first["true"] == at_first["none"] == at_first["wrong"]
    for _ in range(100):
        trainer._step()
    found = trainer.held_out_losses(batches=8)
    assert found["none"] == at_first["none"]
    assert found["wrong"] - found["true"] > 3 * found["error"] > 0
    assert found["true"] < found["none"]
    assert all(torch.equal(v, before[k]) for k, v in base.state_dict().items())
    adapter = load_adapter(trainer.save_model(), "ab")
    with adapter.attached(base, torch.tensor([10.0, 60.0])) as extra:
        assert not torch.equal(extra[0], extra[1])


def test_stopped_and_resumed_it_is_one_training(tmp_path, packed):
    def trainer(folder, **changes):
        settings = AdapterSettings(minutes=100, batch=16, **changes)
        return AdapterTrainer(tmp_path / folder, packed, "mean_number", new_base(packed), "ab", settings)

    one, two = trainer("one"), trainer("two")
    for t, steps in ((one, 6), (two, 3)):
        for _ in range(steps):
            t._step()
    two.save()
    again = trainer("two")
    assert again.step == 3
    again.seconds = one.seconds
    for _ in range(3):
        again._step()
    for name, tensor in one.average.items():
        torch.testing.assert_close(again.average[name], tensor, rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="rank: 8 there, 4 asked for"):
        trainer("two", rank=4)
    with pytest.raises(InputError, match="another fine-tuning"):
        AdapterTrainer(tmp_path / "two", packed, "mean_number", new_base(packed), "cd", QUICK)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("hardness", "numeric columns: mean_number, rare, same"),
        ("rare", "9 crystals have a value, at least 50"),
        ("same", "constant"),
    ],
)
def test_what_cannot_be_learned(tmp_path, packed, base, label, said):
    with pytest.raises(InputError) as error:
        AdapterTrainer(tmp_path, packed, label, base, "ab", QUICK)
    assert said in str(error.value)


def test_the_flow_writes_an_adapter(tmp_path, table, packed, base, monkeypatch):
    monkeypatch.setenv("HELIODOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HELIODOR_WORKERS", "1")
    source, weights = tmp_path / "t.parquet", tmp_path / "base.safetensors"
    out = tmp_path / "z.safetensors"
    table.to_parquet(source)
    save_process(weights, base.state_dict(), Card(SHAPE._asdict(), base.noise._asdict()))
    told = {"weights": weights, "minutes": 0.01, "max_atoms": 8, "console": Console(quiet=True)}
    with pytest.raises(InputError, match="no numeric column 'hardness'"):
        finetune(source, "hardness", out, **told)
    with pytest.raises(InputError, match="device: 'gpu7'"):
        finetune(source, "mean_number", out, device="gpu7", **told)
    with pytest.raises(InputError, match="minutes"):
        finetune(source, "mean_number", out, **told | {"minutes": 0.0})
    with pytest.raises(InputError, match="safetensors"):
        finetune(source, "mean_number", tmp_path / "z.pt", **told)
    assert not list((tmp_path).glob("*.training"))
    summary = finetune(source, "mean_number", out, **told)
    assert summary["message"].startswith(f"wrote {out}: mean_number")
    assert not summary["stopped"]
    process, card = load_process(weights)
    with load_adapter(out, card).attached(process, torch.ones(2)) as extra:
        assert torch.isfinite(extra).all()
    again = finetune(source, "mean_number", out, **told)  # nothing is left to do
    assert again["held_out"] == summary["held_out"]
