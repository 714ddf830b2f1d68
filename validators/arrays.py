"""A folder of arrays that is written once, whole or not at all, and read memory-mapped by many."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from ..core.errors import StorageError

Arrays = dict[str, NDArray[Any]]

_ABOUT = "about.json"
_ABANDONED = 24 * 3600.0  # seconds after which a folder half-written by a process that died is removed


def open_arrays(folder: Path) -> tuple[dict[str, Any], Arrays] | None:
    """What `ArrayWriter.publish` was told, and the arrays; None where they are not whole.

    They are mapped copy-on-write: shared with other processes, and nothing written reaches the disk.
    (Compiled functions do not take read-only arrays.)
    """
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        return about["about"], {
            name: _map(folder / name, np.dtype(dtype), tuple(shape))
            for name, (dtype, shape) in about["arrays"].items()
        }
    except (OSError, ValueError, KeyError):  # never published, or damaged since
        return None


def _map(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    size = int(np.prod(shape)) * dtype.itemsize
    if path.stat().st_size != size:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, expected {size}")
    if size == 0:
        return np.empty(shape, dtype)  # nothing cannot be mapped
    return np.asarray(np.memmap(path, dtype, mode="c", shape=shape))


class ArrayWriter:
    """Writes arrays piece by piece beside `folder`; `publish` puts them in its place.

    Several processes may write the same folder at once: the first to publish wins. Left without
    `publish`, nothing stays; after a kill, what was half-written is removed by a later writer.

    Raises:
        StorageError: the disk refuses (of every method).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._partial = folder.with_name(f".{folder.name}.{uuid4().hex[:12]}.partial")
        self._files: dict[str, IO[bytes]] = {}
        self._shapes: dict[str, tuple[str, list[int]]] = {}

    def __enter__(self) -> Self:
        try:
            self._partial.mkdir(parents=True)
            _remove_abandoned(self.folder.parent)
        except OSError as error:
            raise self._refused(error) from error
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()
        shutil.rmtree(self._partial, ignore_errors=True)

    def append(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Add rows to arrays, by name; the first piece fixes the type and the shape of a row."""
        try:
            for name, array in arrays.items():
                if name not in self._files:
                    self._files[name] = (self._partial / name).open("wb")
                    self._shapes[name] = (array.dtype.str, [0, *array.shape[1:]])
                dtype, shape = self._shapes[name]
                if (array.dtype.str, list(array.shape[1:])) != (dtype, shape[1:]):
                    raise ValueError(f"{name}: {array.dtype} {array.shape}, expected {dtype} {shape}")
                self._files[name].write(np.ascontiguousarray(array).data)
                shape[0] += len(array)
        except OSError as error:
            raise self._refused(error) from error

    def publish(self, about: Mapping[str, Any]) -> None:
        """Make the folder appear, whole, unless another process was first."""
        text = json.dumps({"about": about, "arrays": self._shapes})
        try:
            for file in self._files.values():
                file.close()
            (self._partial / _ABOUT).write_text(text, encoding="utf-8")
            if self.folder.exists() and open_arrays(self.folder) is None:  # damaged
                aside = self._partial.with_name(f".{uuid4().hex[:12]}.partial")
                self.folder.rename(aside)
                shutil.rmtree(aside, ignore_errors=True)
            self._partial.rename(self.folder)
        except OSError as error:
            if open_arrays(self.folder) is None:
                raise self._refused(error) from error

    def _refused(self, error: OSError) -> StorageError:
        return StorageError(
            f"{self.folder}: cannot be written ({error.strerror})",
            hint="free some space, or set HELIODOR_CACHE to another folder",
        )


def _remove_abandoned(parent: Path) -> None:
    for old in parent.glob(".*.partial"):
        try:
            abandoned = time.time() - max(p.stat().st_mtime for p in (old, *old.iterdir())) > _ABANDONED
        except OSError:  # its writer was faster
            continue
        if abandoned:
            shutil.rmtree(old, ignore_errors=True)
