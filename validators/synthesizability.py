"""The synthesizability of crystals as columns, by the model of `synthesis`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from ..core.columns import Column, Value
from ..core.records import Judged
from .synthesis import SynthesisModel, load_model

_log = logging.getLogger("heliodor.validators")

_SOURCE = (
    "in the manner of SynthNN (Antoniuk et al., npj Comput. Mater. 9, 155 (2023)); SYNTHESIS_CARD.md"
)


class Synthesizability:
    """How much a composition is like known ones; 1 ms a crystal in batches.

    Args:
        path: a model of `heliodor train-synthesis`; by default the one that ships.

    Raises:
        InputError, StorageError: as `load_model`; at once.
    """

    name = "synthesizability"
    columns = (
        Column(
            "synthesizability",
            "float64",
            "how much the composition is like known ones and unlike hypothetical ones, 0 to 1; "
            "above 0.5 it is called synthesizable",
            "",
            _SOURCE,
            "no probability: it ranks. Of the composition alone: neither the structure nor a route is "
            "judged. Known phases are those of the table, some of which were only computed; "
            "chemistry that they do not show scores low",
        ),
        Column(
            "synthesis_known",
            "boolean",
            "the model was shown this composition as known, so its score says nothing new",
            "",
            _SOURCE,
            "says that it is in the table, not that it was made; false not that it never was",
        ),
    )

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        if path is not None:
            _ = self._model  # a wrong file is said before work starts

    def score(self, batch: Sequence[Judged]) -> list[Mapping[str, Value]]:
        """See `Scorer`."""
        compositions = [item.crystal.reduced_composition for item in batch]
        try:
            scores, known = self._model.score(compositions), self._model.knows(compositions)
        except Exception:  # so that the other scorers' columns are kept
            _log.exception("no synthesizability of a batch of %d", len(batch))
            return [{} for _ in batch]
        return [
            {"synthesizability": float(score), "synthesis_known": bool(shown)}
            for score, shown in zip(scores, known, strict=True)
        ]

    @cached_property
    def _model(self) -> SynthesisModel:
        return load_model(self._path)
