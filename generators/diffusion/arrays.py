"""Named arrays in one npz file, without pickle."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError, StorageError
from ...core.files import partial_of


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], what: str) -> None:
    """A compressed npz file, put in its place when complete; makes the folder.

    Raises:
        StorageError: it cannot be written; what stood there stays.
    """
    path = Path(path)
    partial = partial_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise StorageError(f"cannot write {what} {path}: {error}") from error


def load_arrays(path: Path, needed: Sequence[str], what: str) -> dict[str, NDArray[Any]]:
    """All arrays of an npz file, without pickle.

    Raises:
        InputError: no such file, damaged, or arrays are missing.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"cannot read {what} from {path}: {error}") from error
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise InputError(f"{path} holds no {what}: no {', '.join(missing)}")
    return arrays
