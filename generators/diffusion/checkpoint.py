"""Weights on disk: safetensors with everything needed to use them, and nothing that is executed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import InputError, StorageError, missing_extra
from ...core.files import partial_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from .model import Shape
    from .process import Process

FORMAT = "heliodor-diffusion-1"
_LARGEST = 512 * 1024 * 1024  # bytes; no file of ours is near it


@dataclass(frozen=True)
class Card:
    """What a checkpoint says of itself.

    Args:
        shape: size of the network. noise: spans of sigma, by part.
        step: training step. samples: crystals seen. data: digest of the training table.
        version: of the code. sha256: of the file ("" before it is written).
        notes: free facts (labels of a property adapter, its scales).
    """

    shape: Mapping[str, int]
    noise: Mapping[str, tuple[float, float]]
    step: int = 0
    samples: int = 0
    data: str = ""
    version: str = ""
    sha256: str = ""
    notes: Mapping[str, Any] | None = None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header whole or not at all.

    Raises:
        StorageError: it cannot be written; what stood there stays.
        MissingError: safetensors is not installed.
    """
    save_file = _safetensors().save_file
    partial = partial_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(plain, str(partial), metadata={"format": FORMAT, "heliodor": json.dumps(header)})
        partial.replace(path)
    except (OSError, _safetensor_error()) as error:
        partial.unlink(missing_ok=True)
        raise StorageError(f"cannot write the weights {path}: {error}") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and the header of a file of ours. Nothing in the file is executed.

    Raises:
        InputError: no such file, not a checkpoint, of another version, or damaged.
    """
    safe_open = _safetensors_open()
    if not path.is_file():
        raise InputError(f"no weights at {path}")
    if path.stat().st_size > _LARGEST:
        raise InputError(f"{path} is larger than {_LARGEST >> 20} MB: not weights of Heliodor")
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            said = file.metadata() or {}
            if said.get("format") != FORMAT:
                raise InputError(
                    f"{path} is no checkpoint of this version: it says {said.get('format')!r}, "
                    f"expected {FORMAT!r}",
                    hint="train again with: heliodor train",
                )
            header = json.loads(said["heliodor"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, KeyError, ValueError, _safetensor_error()) as error:
        raise InputError(
            f"{path} is not a readable checkpoint: {error}", hint="weights are .safetensors files"
        ) from error
    if not isinstance(header, dict):
        raise InputError(f"{path}: the header is not an object")
    return tensors, header


def save_process(path: Path, weights: Mapping[str, Tensor], card: Card) -> None:
    """Write the (averaged) state of a `Process` with its card, the network in half precision."""
    half = {
        k: v.half() if v.is_floating_point() and k.startswith("network.") else v
        for k, v in weights.items()
    }
    header = {k: v for k, v in vars(card).items() if k != "sha256"}
    write_tensors(path, half, header)


def load_process(path: Path, device: str = "cpu") -> tuple[Process, Card]:
    """The model of a checkpoint, ready to sample.

    Raises:
        InputError: see `read_tensors`; or the tensors do not fit the size that the header names.
    """
    import torch

    from .model import CrystalTransformer, Shape
    from .process import Noise, Process

    tensors, header = read_tensors(path)
    try:
        shape = _sane(Shape(**{k: int(v) for k, v in header["shape"].items()}))
        noise = Noise(**{k: (float(v[0]), float(v[1])) for k, v in header["noise"].items()})
        process = Process(CrystalTransformer(shape), tensors["codes"], noise)
        process.load_state_dict(
            {k: v.float() if v.dtype == torch.float16 else v for k, v in tensors.items()}
        )
        card = Card(**{**header, "sha256": digest_of(path)})
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: the weights do not fit the header: {text}") from error
    if not all(bool(torch.isfinite(v).all()) for v in tensors.values() if v.is_floating_point()):
        raise InputError(f"{path}: the weights hold NaN or infinity")
    return process.to(device).eval(), card


def _sane(shape: Shape) -> Shape:
    """The shape, if memory may be taken for it: a header can say anything."""
    if not (8 <= shape.width <= 4096 and 1 <= shape.depth <= 64 and 1 <= shape.max_atoms <= 256):
        raise ValueError(f"a network of {shape}")
    return shape


def digest_of(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise missing_extra("safetensors", "diffusion") from error
    return safetensors.torch


def _safetensors_open() -> Any:
    _safetensors()
    from safetensors import safe_open

    return safe_open


def _safetensor_error() -> type[Exception]:
    from safetensors import SafetensorError

    return SafetensorError
