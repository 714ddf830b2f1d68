"""How much a composition is like those that were made: a model of positive and unlabelled compositions.

In the manner of SynthNN (Antoniuk et al., npj Comput. Mater. 9, 155 (2023),
doi:10.1038/s41524-023-01114-4): known compositions are the positives, hypothetical ones are unlabelled,
for some of them could be made. Here the learner is a bag of forests of boosted trees (Mordelet and Vert,
Pattern Recognit. Lett. 37, 201 (2014)) on Magpie features and `OWN_FEATURES`. How it is trained:
`synthesis_training`.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import InputError, StorageError
from ..core.files import partial_of
from .boosting import Forest
from .charge import NON_METALS
from .magpie import magpie_features, magpie_names
from .oxidation import assign
from .phases import Composition

OWN_FEATURES = (
    "elements",
    "atoms in the formula",
    "share of non-metals",
    "neutral",  # 1: oxidation states balance, -1: none do, 0: a compound without a non-metal
    "log10 frequency of the rarest state",
    "likelihood of the states",
)
_FORMAT = "heliodor-synthesis-1"
_RARE = -5.0  # log10 frequency where no states balance
_BLOCK = 2000  # compositions at once: bounds the memory


@dataclass(frozen=True)
class SynthesisModel:
    """A trained model: forests, what they were trained on, and what was measured.

    Args:
        forests: all bags' trees side by side; their mean over the bags is the logit.
        bags: how many forests these are.
        known: (n,) uint64, rising: digests of the compositions that it was shown as known.
        card: plain values: data, settings, measured numbers.
    """

    forests: Forest
    bags: int
    known: NDArray[np.uint64]
    card: dict[str, Any]

    def score(self, compositions: Sequence[Composition]) -> NDArray[np.float64]:
        """(n,) from 0 to 1; above 0.5 a composition is called synthesizable."""
        found = [
            self.forests.logits(features(compositions[i : i + _BLOCK])) / self.bags
            for i in range(0, len(compositions), _BLOCK)
        ]
        return np.asarray(1 / (1 + np.exp(-np.concatenate([np.empty(0), *found]))))

    def knows(self, compositions: Sequence[Composition]) -> NDArray[np.bool_]:
        """(n,) whether it was shown a composition as known."""
        return np.isin(digests(compositions), self.known)

    def save(self, path: Path) -> None:
        """Write one .npz file: arrays, the card and a checksum, no pickle.

        Raises:
            StorageError: it cannot be written.
        """
        arrays = self._arrays()
        card = json.dumps({**self.card, "format": _FORMAT, "bags": self.bags, "sha256": _sha256(arrays)})
        part = partial_of(path)
        try:
            with part.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, card=np.array(card), **arrays)
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise StorageError(f"cannot write {path}: {error.strerror}") from error

    def _arrays(self) -> dict[str, NDArray[Any]]:
        forests = self.forests
        return {
            "feature": forests.feature,
            "threshold": forests.threshold,
            "leaf": forests.leaf,
            "known": self.known,
        }


def load_model(path: Path | None = None) -> SynthesisModel:
    """A model that `SynthesisModel.save` wrote; by default the one that ships.

    Raises:
        InputError: no such file, or not such a model. StorageError: it is damaged.
    """
    where = path or Path(str(resources.files(__package__).joinpath("data/synthesis.npz")))
    hint = "train one with: heliodor train-synthesis TABLE --out model.npz"
    try:
        with np.load(where, allow_pickle=False) as found:
            content = {name: found[name] for name in found.files}
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror or error})", hint=hint) from error
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{where} is no synthesizability model", hint=hint) from error
    text = content.pop("card", None)
    try:
        card = json.loads(str(text))
    except ValueError:
        card = {}
    if not isinstance(card, dict) or card.get("format") != _FORMAT:
        raise InputError(f"{where} is no synthesizability model of this version", hint=hint)
    if _sha256(content) != card.get("sha256"):
        raise StorageError(f"{where} is damaged: its checksum differs", hint="copy or train it again")
    forests = Forest(content["feature"], content["threshold"], content["leaf"])
    return SynthesisModel(forests, int(card["bags"]), content["known"], card)


def features(compositions: Sequence[Composition]) -> NDArray[np.float64]:
    """(n, 138): Magpie's features, then `OWN_FEATURES`."""
    own = np.array([_own_features(c) for c in compositions]).reshape(-1, len(OWN_FEATURES))
    return np.concatenate([magpie_features(compositions), own], axis=1)


def feature_names() -> tuple[str, ...]:
    """Of the columns of `features`."""
    return (*magpie_names(), *OWN_FEATURES)


def _own_features(composition: Composition) -> tuple[float, ...]:
    atoms = sum(n for _, n in composition)
    non_metals = sum(n for z, n in composition if z in NON_METALS) / atoms
    found = assign(composition)
    if found is not None:
        charge = (1.0, math.log10(found.frequency), found.likelihood)
    else:
        charge = (-1.0 if non_metals and len(composition) > 1 else 0.0, _RARE, 0.0)
    return (float(len(composition)), float(atoms), non_metals, *charge)


def digests(compositions: Iterable[Composition]) -> NDArray[np.uint64]:
    """(n,) 64-bit digests of reduced compositions."""
    return np.array([_digest(c) for c in compositions], dtype=np.uint64)


def _digest(composition: Composition) -> int:
    text = " ".join(f"{z}:{n}" for z, n in composition)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _sha256(arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
