"""`heliodor train-synthesis`: a synthesizability model from a table of known crystals."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..core.errors import InputError
from ..core.records import Candidate, Conditions
from ..generators.files import FilesGenerator
from ..generators.hypothetical import Composition, Kind, hypothetical
from ..validators.synthesis_training import MIN_KNOWN, TrainingOptions, train
from .single import progress

if TYPE_CHECKING:
    from rich.console import Console

_ALL = 10_000_000


@dataclass(frozen=True)
class SynthesisOptions:
    """What to train.

    Args:
        hypothetical: hypothetical compositions of each kind, in units of the number of known ones.
        training: see `TrainingOptions`.

    Raises:
        InputError: out of range.
    """

    hypothetical: float = 0.4
    training: TrainingOptions = field(default_factory=TrainingOptions)

    def __post_init__(self) -> None:
        if not 0 <= self.hypothetical <= 10:
            raise InputError(f"--hypothetical is {self.hypothetical}, expected 0 to 10")


def train_synthesis(
    tables: Sequence[Path],
    out: Path,
    options: SynthesisOptions,
    *,
    unlabelled: Sequence[Path] = (),
    console: Console,
) -> dict[str, Any]:
    """Train a model and write it.

    Args:
        tables: crystals that were made. unlabelled: crystals that may be or not, for example generated.

    Raises:
        InputError: nothing to learn from. StorageError: `out` cannot be written.
    """
    if out.suffix != ".npz":
        raise InputError(f"--out {out}: expected a file ending in .npz")
    if not (out.parent.is_dir() and os.access(out.parent, os.W_OK)):
        raise InputError(f"--out {out}: {out.parent} is no folder that can be written to")
    known = sorted(compositions(tables, console))
    if len(known) < MIN_KNOWN:
        raise InputError(f"{len(known)} different compositions are known, expected at least {MIN_KNOWN}")
    others = _unlabelled(known, compositions(unlabelled, console), options)
    with progress(console, "training", options.training.steps) as step:
        model = train(known, others, options.training, step)
    model.card.update(version=__version__, tables=[path.name for path in tables])
    model.save(out)
    return {"out": str(out), **model.card, "message": _message(out, model.card)}


def compositions(paths: Sequence[Path], console: Console) -> set[Composition]:
    """The different reduced compositions in some files of crystals; what cannot be read is left out."""
    if not paths:
        return set()
    stream = FilesGenerator(tuple(map(str, paths))).generate(
        _ALL, seed=0, conditions=Conditions(max_atoms=100_000)
    )
    with console.status("reading the crystals"):
        return {item.crystal.reduced_composition for item in stream if isinstance(item, Candidate)}


def _unlabelled(
    known: list[Composition], given: set[Composition], options: SynthesisOptions
) -> dict[str, list[Composition]]:
    """Hypothetical compositions by kind, and those that were given; none known, none twice."""
    rng = np.random.default_rng([options.training.seed, 2])
    n = int(options.hypothetical * len(known))
    taken = set(known) | given
    found: dict[str, list[Composition]] = {}
    for kind in Kind if n else ():
        found[kind.value] = hypothetical(known, kind, n, rng, taken)
        taken.update(found[kind.value])
    if given - set(known):
        found["given"] = sorted(given - set(known))
    return found


def _message(out: Path, card: dict[str, Any]) -> str:
    found = card["measured"]
    by_kind = ", ".join(f"{kind} {share:.1%}" for kind, share in found["called_by_kind"].items())
    return (
        f"wrote {out} ({out.stat().st_size / 1e3:.0f} kB), from {card['known']:,} known compositions\n"
        f"chemical systems left out: {found['recall']:.1%} of known compositions are called "
        f"synthesizable, and {found['called']:.1%} of unlabelled ones ({by_kind}); "
        f"ROC area {found['roc_area']:.3f}\n"
        "unlabelled is not negative: some of those could be made"
    )
