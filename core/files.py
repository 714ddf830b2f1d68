"""Writing a file whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from .errors import StorageError


def partial_of(path: Path) -> Path:
    """Where to write before `path` is put in its place: two processes do not meet there."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def write_text(path: Path, text: str, what: str = "") -> None:
    """Write UTF-8 text beside `path` and put it in its place when complete; makes the folder.

    Args:
        what: what the file is, for the error ("the report").

    Raises:
        StorageError: it cannot be written; what stood there stays.
    """
    partial = partial_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {what} {path}: {error}" if what else f"cannot write {path}: {error}"
        ) from error
