"""The relaxers with their worker processes: physics, guards, limits, deaths, threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
from ase.build import bulk

from heliodor.core.choices.relaxers import ChgnetChoice, MlipChoice
from heliodor.core.convert import from_atoms, to_atoms
from heliodor.core.crystal import Crystal
from heliodor.core.errors import HeliodorError, InputError, MissingError
from heliodor.core.protocols import Relaxer
from heliodor.core.records import Evaluated, Reason, Relaxed
from heliodor.engines.mlip import ChgnetRelaxer, MlipRelaxer, SevennetRelaxer
from heliodor.engines.potentials import KNOWN

pytest.importorskip("chgnet")
pytest.importorskip("sevenn")


@pytest.fixture(scope="module")
def chgnet():
    relaxer = ChgnetRelaxer(ChgnetChoice(kind="chgnet", device="cpu", max_atoms=400), 2)
    yield relaxer
    relaxer.close()


def crystal(name, structure, a, amount=0.05, strain=0.0, cubic=False):
    atoms = bulk(name, structure, a=a, cubic=cubic)
    rng = np.random.default_rng(5)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, strain, (3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(0, amount, atoms.positions.shape)
    return from_atoms(atoms)


SILICON = crystal("Si", "diamond", 5.6)
SALT = crystal("NaCl", "rocksalt", 5.5)
BIG = crystal("NaCl", "rocksalt", 5.2, amount=0.2, cubic=True)


def big(n):
    atoms = to_atoms(BIG).repeat(n)
    atoms.rattle(0.15, seed=1)
    return from_atoms(atoms)


def workers():
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if "heliodor.engines.worker" in " ".join(child.cmdline())
    ]


def wait_for(condition, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def work_done():
    """CPU seconds of each worker that lives: unlike the clock's, they do not grow on a busy machine."""
    return {w.pid: sum(w.cpu_times()[:2]) for w in workers()}


def cubic_constant(relaxed, per_cell):
    return (relaxed.crystal.volume / len(relaxed.crystal) * per_cell) ** (1 / 3)


def test_is_a_relaxer(chgnet):
    assert isinstance(chgnet, Relaxer)
    assert (chgnet.name, chgnet.model) == ("chgnet", "chgnet-0.3.0")
    assert chgnet.supports(26)
    assert not chgnet.supports(84)
    assert not chgnet.supports(96)
    assert chgnet.provenance["package"].startswith("chgnet ")
    assert len(chgnet.provenance["weights_sha256"]) == 64


def test_rattled_crystals_come_back(chgnet):
    """Lattice constants within 1 % of PBE's (Materials Project: Si 5.47, NaCl 5.69, MgO 4.26)."""
    known = {"Si": 5.47, "NaCl": 5.69, "MgO": 4.26}
    batch = [crystal("Si", "diamond", 5.6), SALT, crystal("MgO", "rocksalt", 4.1, strain=0.02)]
    results = {r.crystal.formula: r for r in chgnet.relax(batch)}
    assert {r.key for r in results.values()} == {c.digest for c in batch}
    for formula, a in known.items():
        assert results[formula].converged
        assert results[formula].max_force <= 0.05
        assert results[formula].max_stress <= 0.003
        assert cubic_constant(results[formula], 8) == pytest.approx(a, rel=0.012)


def test_moving_or_turning_the_crystal_does_not_matter(chgnet):
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    start = crystal("MgO", "rocksalt", 4.1, strain=0.02)
    moved = Crystal(start.lattice, start.frac_coords + 0.3, start.atomic_numbers)
    turned = Crystal(start.lattice @ rotation, start.frac_coords, start.atomic_numbers)
    energies = [r.energy for r in chgnet.relax([start, moved, turned])]
    assert np.ptp(energies) < 1e-3


def test_deterministic(chgnet):
    """Whatever else is in the batch, and whichever worker takes it."""
    alone = next(chgnet.relax([SALT]))
    for batch in ([SILICON, SALT], [SALT, SILICON, BIG], [BIG, SALT]):
        found = next(r for r in chgnet.relax(batch) if r.key == SALT.digest)
        assert found.energy == pytest.approx(alone.energy, abs=1e-6)
        assert found.crystal == alone.crystal


def test_bad_crystals_give_their_reason_within_seconds(chgnet):
    salt = SALT
    bad = {
        Reason.NOT_FINITE: Crystal(salt.lattice * np.nan, salt.frac_coords, salt.atomic_numbers),
        Reason.ELEMENT: Crystal(np.eye(3) * 4, [[0, 0, 0]], [96]),
        Reason.TOO_MANY_ATOMS: big(4),
        Reason.DISTANCE: Crystal(np.eye(3) * 5, [[0, 0, 0], [0.06, 0, 0]], [11, 17]),
        Reason.VOLUME: Crystal(salt.lattice * 0.05, salt.frac_coords, salt.atomic_numbers),
        Reason.CELL: Crystal(np.diag([0.1, 30, 30]), [[0, 0, 0]], [11]),
        Reason.EXPLODED: Crystal(salt.lattice * 4.64, salt.frac_coords, salt.atomic_numbers),
    }
    list(chgnet.relax([salt]))  # the workers are there
    before = work_done()
    results = {r.key: r for r in chgnet.relax([*bad.values(), SILICON])}
    assert sum(work_done().values()) - sum(before.values()) < 5
    assert results.pop(SILICON.digest).converged
    assert {r.reason for r in results.values()} == set(bad)
    assert all(
        results[c.digest].reason == reason and results[c.digest].detail for reason, c in bad.items()
    )


def test_single_points_through_the_same_workers(chgnet):
    """Forces are minus the gradient of the energy; larger cells than `max_atoms` may be evaluated."""
    shift = np.zeros((2, 3))
    shift[0, 0] = 0.02
    cart = SALT.frac_coords @ SALT.lattice
    up, down = (
        Crystal(SALT.lattice, (cart + s * shift) @ np.linalg.inv(SALT.lattice), SALT.atomic_numbers)
        for s in (1, -1)
    )
    supercell = from_atoms(to_atoms(SALT).repeat((6, 6, 6)))
    assert len(supercell) > 400
    results = {r.key: r for r in chgnet.evaluate([SALT, up, down, supercell])}
    here, there, back = (results[c.digest] for c in (SALT, up, down))
    assert here.forces[0, 0] == pytest.approx(-(there.energy - back.energy) / 0.04, abs=5e-3)
    large = results[supercell.digest]
    assert large.energy == pytest.approx(216 * here.energy, abs=1e-5 * len(supercell))
    assert large.forces.shape == (len(supercell), 3)
    assert np.allclose(large.stress, here.stress, atol=1e-5)
    assert (here.key, here.model, here.seconds > 0) == (SALT.digest, "chgnet-0.3.0", True)


def test_a_single_point_that_cannot_be_made_costs_one_crystal(chgnet):
    overlapping = Crystal(np.eye(3) * 5, [[0, 0, 0], [0.06, 0, 0]], [11, 17])
    foreign = Crystal(np.eye(3) * 4, [[0, 0, 0]], [96])
    huge = from_atoms(to_atoms(SALT).repeat((10, 11, 11)))
    results = {r.key: r for r in chgnet.evaluate([overlapping, foreign, huge, SALT])}
    assert results[overlapping.digest].reason == Reason.DISTANCE
    assert results[foreign.digest].reason == Reason.ELEMENT
    assert results[huge.digest].reason == Reason.TOO_MANY_ATOMS
    assert isinstance(results[SALT.digest], Evaluated)


def test_empty_batch(chgnet):
    assert list(chgnet.relax([])) == []


def test_two_threads_share_the_workers(chgnet):
    found = {}

    def work(name, batch):
        found[name] = [(time.monotonic(), r) for r in chgnet.relax(batch)]

    long = [
        Crystal(BIG.lattice * (1 + 0.001 * k), BIG.frac_coords, BIG.atomic_numbers) for k in range(12)
    ]
    threads = [threading.Thread(target=work, args=("long", long))]
    threads[0].start()
    time.sleep(0.2)
    threads.append(threading.Thread(target=work, args=("short", [SILICON, SALT])))
    threads[1].start()
    for thread in threads:
        thread.join(timeout=240)
    assert {r.key for _, r in found["long"]} == {c.digest for c in long}
    assert {r.key for _, r in found["short"]} == {SILICON.digest, SALT.digest}
    assert found["short"][-1][0] < found["long"][-1][0]  # did not queue behind the long batch


def test_closing_early_drops_what_is_not_begun(chgnet):
    many = [
        Crystal(BIG.lattice * (1 + 0.001 * k), BIG.frac_coords, BIG.atomic_numbers) for k in range(200)
    ]
    stream = chgnet.relax(many)
    next(stream)
    stream.close()
    before = work_done()
    assert len(list(chgnet.relax([SILICON]))) == 1
    assert sum(work_done().values()) - sum(before.values()) < 10  # 200 would take a minute


@pytest.mark.slow
def test_a_killed_worker_fails_only_its_crystal(chgnet):
    list(chgnet.relax([SILICON, SALT]))
    before = {w.pid for w in workers()}
    heavy = big(3)
    batch = [heavy, SILICON, SALT, BIG]
    results = []
    stream = chgnet.relax(batch)
    thread = threading.Thread(target=lambda: results.extend(stream))
    thread.start()
    # The worker that is still computing when the small ones are done holds the large crystal.
    wait_for(lambda: len(results) == 3)
    so_far, busy = work_done(), []

    def one_works_on():
        busy[:] = [w for w in workers() if sum(w.cpu_times()[:2]) - so_far[w.pid] > 0.3]
        return busy

    wait_for(one_works_on)
    [busy] = busy
    os.kill(busy.pid, signal.SIGKILL)
    thread.join(timeout=240)
    found = {r.key: r for r in results}
    assert found[heavy.digest].reason == Reason.WORKER_DIED
    assert "-9" in found[heavy.digest].detail
    assert all(found[c.digest].converged for c in batch[1:])
    assert len(list(chgnet.relax([SILICON, SALT]))) == 2  # replaced
    assert busy.pid in before
    assert busy.pid not in {w.pid for w in workers()}


@pytest.mark.slow
def test_a_worker_killed_while_idle_costs_nothing(chgnet):
    list(chgnet.relax([SILICON, SALT]))
    killed = workers()
    for worker in killed:
        os.kill(worker.pid, signal.SIGKILL)
    wait_for(lambda: all(w.status() == psutil.STATUS_ZOMBIE for w in killed))
    assert all(isinstance(r, Relaxed) for r in chgnet.relax([SILICON, SALT]))


def test_time_limit():
    relaxer = ChgnetRelaxer(MlipChoice(device="cpu", time_limit=0.05, max_atoms=400), 1)
    heavy = big(2)
    results = {r.key: r for r in relaxer.relax([heavy, SILICON])}
    relaxer.close()
    assert results[heavy.digest].reason == Reason.TIME_LIMIT
    assert set(results) == {heavy.digest, SILICON.digest}


@pytest.mark.slow
def test_a_stuck_worker_is_killed_at_the_time_limit():
    """Stopped by a signal, as one that hangs in a library: it cannot mind the limit itself."""
    relaxer = ChgnetRelaxer(MlipChoice(device="cpu", time_limit=1.0, max_atoms=400), 1)
    known = {w.pid for w in workers()}
    list(relaxer.relax([SILICON]))
    (mine,) = [w for w in workers() if w.pid not in known]
    mine.suspend()
    (result,) = relaxer.relax([SALT])  # ends at all, though the worker does not
    assert result.reason == Reason.TIME_LIMIT
    relaxer.close()


@pytest.mark.slow
def test_memory_limit():
    """A limit that the loaded potential just keeps, and a cell of 216 atoms does not."""
    known = {w.pid for w in workers()}
    probe = SevennetRelaxer(MlipChoice(device="cpu"), 1)
    list(probe.relax([SILICON]))
    (mine,) = [w for w in workers() if w.pid not in known]
    used = mine.memory_info().rss / 1e9
    probe.close()
    settings = MlipChoice(device="cpu", memory_limit_gb=used + 0.15, max_atoms=400)
    relaxer = SevennetRelaxer(settings, 1)
    heavy = big(3)
    results = {r.key: r for r in relaxer.relax([heavy, SILICON])}
    relaxer.close()
    assert results[heavy.digest].reason == Reason.MEMORY_LIMIT
    assert results[SILICON.digest].converged


@pytest.mark.slow
def test_a_memory_limit_below_the_potential_s_own_need_is_misuse():
    relaxer = ChgnetRelaxer(MlipChoice(device="cpu", memory_limit_gb=0.05), 1)
    with pytest.raises(InputError, match=r"memory_limit_gb: got 0\.05"):
        list(relaxer.relax([SILICON]))
    relaxer.close()


@pytest.mark.slow
def test_close_is_idempotent_and_the_relaxer_lives_again():
    known = {w.pid for w in workers()}
    relaxer = ChgnetRelaxer(MlipChoice(device="cpu"), 1)
    relaxer.close()
    assert len(list(relaxer.relax([SILICON]))) == 1
    relaxer.close()
    relaxer.close()
    assert {w.pid for w in workers()} == known
    assert len(list(relaxer.relax([SILICON]))) == 1
    del relaxer  # dropped without close: the finalizer ends the processes
    wait_for(lambda: {w.pid for w in workers()} == known)


@pytest.mark.slow
def test_closing_while_working_raises_there():
    relaxer = ChgnetRelaxer(MlipChoice(device="cpu", max_atoms=400), 1)
    caught = []

    def work():
        try:
            list(relaxer.relax([big(3), big(2)]))
        except HeliodorError as error:
            caught.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(1)
    relaxer.close()
    thread.join(timeout=240)
    assert caught == ["the relaxer was closed while it was working"]


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    """The script has no main guard, and must not be run again by the workers."""
    script = tmp_path / "campaign.py"
    script.write_text(
        textwrap.dedent("""
        from ase.build import bulk
        from heliodor.core.choices.relaxers import MlipChoice
        from heliodor.core.convert import from_atoms
        from heliodor.engines.mlip import ChgnetRelaxer
        relaxer = ChgnetRelaxer(MlipChoice(device="cpu", max_atoms=500), 1)
        small = from_atoms(bulk("Si"))
        print(len(list(relaxer.relax([small]))), flush=True)
        atoms = bulk("NaCl", "rocksalt", a=5.0, cubic=True).repeat(3)
        atoms.rattle(0.2)
        list(relaxer.relax([from_atoms(atoms)] * 50))
        """)
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "1\n"
        (worker,) = psutil.Process(parent.pid).children()
        parent.kill()
    wait_for(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.slow
def test_workers_end_with_the_interpreter(tmp_path):
    script = tmp_path / "short.py"
    script.write_text(
        textwrap.dedent("""
        import psutil
        from ase.build import bulk
        from heliodor.core.choices.relaxers import MlipChoice
        from heliodor.core.convert import from_atoms
        from heliodor.engines.mlip import ChgnetRelaxer
        relaxer = ChgnetRelaxer(MlipChoice(device="cpu"), 1)
        print(len(list(relaxer.relax([from_atoms(bulk("Si"))]))))
        print(psutil.Process().children()[0].pid)
        """)
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True, timeout=240
    )
    count, pid = done.stdout.split()
    assert count == "1"
    assert done.stderr == ""
    assert not psutil.pid_exists(int(pid))


def test_misuse_is_refused_before_work_starts(monkeypatch):
    with pytest.raises(InputError, match="mace"):
        MlipRelaxer("mace", MlipChoice())
    with pytest.raises(InputError, match="workers"):
        ChgnetRelaxer(MlipChoice(), 0)
    monkeypatch.setattr("heliodor.engines.potentials.find_spec", lambda _: None)
    with pytest.raises(MissingError, match="chgnet") as missing:
        ChgnetRelaxer(MlipChoice())
    assert missing.value.hint == "pip install 'heliodor[chgnet]'"


def test_no_gpu_is_said():
    relaxer = ChgnetRelaxer(MlipChoice(device="cuda"), 1)
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(InputError, match="sees no GPU"):
        list(relaxer.relax([SILICON]))
    relaxer.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chgnet", "sevennet"])
def test_agrees_with_ase(name):
    """Same thresholds, ASE's Frechet cell filter and FIRE, the packages' own calculators."""
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE

    if name == "chgnet":
        from chgnet.model.dynamics import CHGNetCalculator

        calculator = CHGNetCalculator(use_device="cpu", verbose=False)
    else:
        from sevenn.calculator import SevenNetCalculator

        calculator = SevenNetCalculator("7net-0", device="cpu")
    starts = [
        crystal("Si", "diamond", 5.6, strain=0.02),
        crystal("NaCl", "rocksalt", 5.5, strain=0.02),
        crystal("Cu", "fcc", 3.7, cubic=True),
        crystal("GaAs", "zincblende", 5.6),
    ]
    relaxer = MlipRelaxer(name, MlipChoice(device="cpu", fmax=0.01, smax=5e-4), 2)
    results = {r.key: r for r in relaxer.relax(starts)}
    relaxer.close()
    for start in starts:
        atoms = to_atoms(start)
        atoms.calc = calculator
        for _ in FIRE(FrechetCellFilter(atoms), logfile=None).irun(fmax=0, steps=500):
            forces = np.linalg.norm(atoms.get_forces(), axis=1).max()
            if forces <= 0.01 and np.abs(atoms.get_stress()).max() <= 5e-4:
                break
        found = results[start.digest]
        assert found.converged
        assert found.energy / len(start) == pytest.approx(
            atoms.get_potential_energy() / len(atoms), abs=1e-3
        )
        assert found.crystal.volume ** (1 / 3) == pytest.approx(atoms.get_volume() ** (1 / 3), rel=5e-3)


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("name", ["chgnet", "sevennet"])
def test_known_crystals_relax(name, mp_table):
    """Rattled and strained crystals of the Materials Project: nearly all converge, quickly."""
    rng = np.random.default_rng(0)
    n = 30 if name == "chgnet" else 12  # SevenNet takes four times as long
    rows = mp_table[mp_table.n_atoms <= 20].sample(n, random_state=7)
    batch = []
    for row in rows.itertuples():
        strain = np.eye(3) + rng.normal(0, 0.03, (3, 3))
        lattice = np.reshape(row.lattice, (3, 3)) @ strain
        frac = np.reshape(row.frac_coords, (-1, 3))
        frac = frac + rng.normal(0, 0.05, frac.shape) @ np.linalg.inv(lattice)
        batch.append(Crystal(lattice, frac, row.atomic_numbers))
    relaxer = MlipRelaxer(name, MlipChoice(device="cpu"), 2)
    results = list(relaxer.relax(batch))
    relaxer.close()
    known = [r for r in results if isinstance(r, Relaxed)]
    assert len(results) == n
    assert sum(r.converged for r in known) >= 0.9 * n
    assert np.median([r.steps for r in known]) <= 15


def test_missing_weights_are_named():
    moved = replace(KNOWN["chgnet"], weights="pretrained/none.pth.tar")
    with pytest.raises(MissingError, match=r"weights of chgnet .*none\.pth\.tar") as missing:
        moved.provenance()
    assert "pip install" in str(missing.value.hint)
