"""Contract tests: every implementation of a protocol passes these, ours and a third party's.

Call them from a test of your own, for example::

    def test_my_generator():
        check_generator(MyGenerator(), Conditions(elements=("Mg", "O"), require_all=False))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .core.crystal import Crystal
from .core.protocols import (
    DftEngine,
    Evaluator,
    Generator,
    OrderedValidator,
    Reference,
    Relaxer,
    Validator,
)
from .core.records import Candidate, Conditions, DftTicket, Evaluated, Failure, Relaxed

ENERGY_TOLERANCE = 1e-6
"""eV: the same crystal gives the same energy, whatever else is in the batch."""

NET_FORCE = 1e-3
"""eV/angstrom: the forces on the atoms of a crystal add up to nothing."""


def rock_salt(a: float = 4.21, cation: int = 12, anion: int = 8) -> Crystal:
    """The primitive cell of a rock-salt crystal; MgO by default. `a` in angstrom."""
    lattice = a / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    return Crystal(lattice, np.array([[0.0] * 3, [0.5] * 3]), np.array([cation, anion]))


def broken(crystal: Crystal) -> Crystal:
    """The crystal with a NaN coordinate: no implementation may raise for it."""
    frac = np.array(crystal.frac_coords)
    frac[0, 0] = np.nan
    return Crystal(crystal.lattice, frac, crystal.atomic_numbers)


def check_generator(generator: Generator, conditions: Conditions, *, n: int = 8, seed: int = 1) -> None:
    """Deterministic, indexable, inside the conditions, one item per position."""
    _is(generator, Generator)

    def stream(start: int, count: int) -> list[Candidate | Failure]:
        return list(generator.generate(count, seed=seed, conditions=conditions, start=start))

    whole = stream(0, n)
    assert 0 < len(whole) <= n, f"{len(whole)} items where {n} were asked for"
    assert whole == stream(0, n), "the same seed gave another stream"
    cut = len(whole) // 2
    assert stream(0, cut) + stream(cut, n - cut) == whole, "start does not continue the stream"
    for position, item in enumerate(whole):
        assert item.origin is not None, f"item {position} has no origin"
        assert item.origin.index == position, f"item {position} says it is item {item.origin.index}"
        if isinstance(item, Candidate):
            assert conditions.admits(item.crystal), f"{item.crystal} is outside {conditions}"


def check_validator(validator: Validator, crystals: Sequence[Crystal]) -> None:
    """One verdict per input in the same order; broken crystals get a verdict, not an exception."""
    _is(validator, Validator)
    batch = [*crystals, broken(crystals[0])]
    verdicts = validator.check(batch)
    assert [v.key for v in verdicts] == [c.digest for c in batch], "verdicts are not in input order"
    for verdict in verdicts:
        assert verdict.check == validator.check_name
        assert verdict.passed is True or verdict.reason is not None, f"{verdict} gives no reason"
    assert validator.check([]) == []


def check_ordered_validator(validators: Sequence[OrderedValidator], crystals: Sequence[Crystal]) -> None:
    """The cut into batches does not matter, and absorbing equals having checked.

    Args:
        validators: three new instances with the same settings.
        crystals: at least two.
    """
    at_once, one_by_one, after = validators
    whole = at_once.check(crystals)
    assert [v for c in crystals for v in one_by_one.check([c])] == whole
    after.absorb(crystals[:1])
    assert after.check(crystals[1:]) == whole[1:]
    assert at_once.check([crystals[0]])[0].passed is False, "a repeated crystal passed"


def check_relaxer(relaxer: Relaxer, crystals: Sequence[Crystal]) -> None:
    """One result per input, finite and flagged, the same whatever else is in the batch."""
    _is(relaxer, Relaxer)
    assert list(relaxer.relax([])) == []
    bad = broken(crystals[0])
    results = {r.key: r for r in relaxer.relax([*crystals, bad])}
    assert set(results) == {c.digest for c in crystals} | {bad.digest}
    assert isinstance(results[bad.digest], Failure), "a NaN crystal was relaxed"
    alone = next(iter(relaxer.relax(crystals[:1])))
    together = results[crystals[0].digest]
    assert isinstance(alone, Relaxed), f"{alone} is no relaxation"
    assert isinstance(together, Relaxed), f"{together} is no relaxation"
    assert abs(alone.energy - together.energy) < ENERGY_TOLERANCE
    for result in results.values():
        if isinstance(result, Relaxed):
            assert np.isfinite([result.energy, result.max_force, result.max_stress]).all()
            assert result.model == relaxer.model


def check_evaluator(evaluator: Evaluator, crystals: Sequence[Crystal]) -> None:
    """One result per input, in its shape, the same whatever else is in the batch; forces balance."""
    _is(evaluator, Evaluator)
    assert list(evaluator.evaluate([])) == []
    bad = broken(crystals[0])
    results = {r.key: r for r in evaluator.evaluate([*crystals, bad])}
    assert set(results) == {c.digest for c in crystals} | {bad.digest}
    assert isinstance(results[bad.digest], Failure), "a NaN crystal was evaluated"
    alone = next(iter(evaluator.evaluate(crystals[:1])))
    assert isinstance(alone, Evaluated), f"{alone} is no evaluation"
    for crystal in crystals:
        found = results[crystal.digest]
        assert isinstance(found, Evaluated), f"{found} is no evaluation"
        assert found.forces.shape == (len(crystal), 3)
        assert found.stress.shape == (3, 3)
        assert np.isfinite(found.energy)
        assert np.isfinite(found.forces).all()
        assert np.abs(found.forces.sum(axis=0)).max() < NET_FORCE, "the forces do not balance"
        assert np.allclose(found.stress, found.stress.T), "the stress is not symmetric"
        assert found.model == evaluator.model
        if found.key == alone.key:
            assert abs(alone.energy - found.energy) < ENERGY_TOLERANCE


def check_reference(reference: Reference, known: Crystal) -> None:
    """Entries stay inside the system; `known` is found; a broken crystal gets a verdict."""
    _is(reference, Reference)
    assert reference.info.name
    assert reference.info.digest
    inside = {z for z, _ in known.reduced_composition}
    entries = reference.entries(known.elements)
    assert entries, f"no entries in {known.chemsys}"
    assert all({z for z, _ in phase.composition} <= inside for phase in entries)
    assert all(
        p.composition == known.reduced_composition for p in reference.like(known.reduced_composition)
    )
    found, fault = reference.match([known, broken(known)])
    assert found.passed is False, f"{known} was not recognised"
    assert found.match
    assert fault.passed is not False


def check_dft_engine(engine: DftEngine, crystals: Sequence[Crystal], folder: Path) -> None:
    """One ticket per crystal, and the same ones when asked again."""
    _is(engine, DftEngine)
    first = engine.prepare(crystals, folder)
    assert len(first) == len(crystals)
    for crystal, ticket in zip(crystals, first, strict=True):
        assert isinstance(ticket, DftTicket), f"{ticket} is no ticket"
        assert ticket.key == crystal.digest
        assert Path(ticket.path).is_dir()
    assert engine.prepare(crystals, folder) == first, "preparing again gave other tickets"


def _is(thing: object, protocol: type) -> None:
    assert isinstance(thing, protocol), f"{type(thing).__name__} is no {protocol.__name__}"
