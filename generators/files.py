"""Crystals from files: what other generators wrote, or what you have."""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from .. import __version__
from ..core.convert import ConversionError
from ..core.crystal import Crystal
from ..core.errors import InputError
from ..core.records import Candidate, Conditions, Failure, Origin, Reason
from .readers import Entry, file_kind, read_entries

_LOG = logging.getLogger("heliodor.generators")

_MAX_UNPACKED = 256 * 2**20  # bytes of one packed file
_MAX_RATIO = 200  # unpacked over packed; CIF text packs to about a tenth
_FREE_UNPACKED = 2**20  # below this the ratio says nothing
_KINDS = "CIF, POSCAR or CONTCAR, xyz or extxyz, JSON, Parquet, zip, or a folder"


@dataclass(frozen=True)
class _File:
    """One file on disk or in an archive: its name for people, its format, how to open it.

    `path` is the file on disk: itself, or the archive it is in.
    """

    label: str
    kind: str
    path: Path
    open: Callable[[], BinaryIO]


class FilesGenerator:
    """The crystals of files, in the order of `paths`, folders and archives sorted by name.

    Reads CIF (every block), POSCAR and CONTCAR, extended xyz (every frame), pymatgen JSON (structures or
    ComputedStructureEntries), Parquet tables with lattice, frac_coords and atomic_numbers, each also
    packed with gzip; and folders or zip archives of them. An entry that cannot be read is a failure and
    takes its position. Files of other types in a folder or archive are passed over. Conditions and seed
    change nothing: judging what was read is the validity check's work.

    Args:
        paths: files, folders or zip archives.
    """

    name = "files"

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = tuple(paths)
        self._checked = False

    @cached_property
    def provenance(self) -> dict[str, str]:
        """SHA-256 of the names and the content of all files that are read.

        Raises:
            InputError: a path is missing or of unknown type.
        """
        whole = hashlib.sha256()
        for path in dict.fromkeys(file.path for file in self._files()):
            whole.update(os.fsencode(path) + b"\0")
            try:
                with path.open("rb") as stream:
                    whole.update(hashlib.file_digest(stream, "sha256").digest())
            except OSError as error:  # generate() makes it the file's failure
                whole.update(repr(error.errno).encode())
        return {"inputs": whole.hexdigest()}

    def generate(
        self,
        n: int,
        *,
        seed: int,
        conditions: Conditions,  # noqa: ARG002 - files are taken as they are
        start: int = 0,
    ) -> Iterator[Candidate | Failure]:
        """Items `start` to `start + n - 1`; ends after the last entry. What is skipped is not parsed.

        Raises:
            InputError: a path is missing or of unknown type, or there is no crystal in any of them.
        """
        files = self._files()
        if not self._checked:
            self._require_crystal(files)
            self._checked = True
        return self._items(files, seed, start, start + n)

    def _files(self) -> list[_File]:
        if not self.paths:
            raise InputError("paths: no files given", hint=_KINDS)
        return [file for path in self.paths for file in _find(path)]

    def _require_crystal(self, files: list[_File]) -> None:
        failure: Failure | None = None
        for item in self._items(files, 0, 0, None):
            if isinstance(item, Candidate):
                return
            failure = failure or item
        why = f"; first: {failure.origin.source}: {failure.detail}" if failure and failure.origin else ""
        raise InputError(f"paths: no crystal in {', '.join(self.paths)}{why}", hint=_KINDS)

    def _items(
        self, files: list[_File], seed: int, start: int, stop: int | None
    ) -> Iterator[Candidate | Failure]:
        for index, (source, parse) in islice(enumerate(_entries(files)), start, stop):
            origin = Origin(self.name, __version__, seed, index, source=source)
            yield _item(parse, origin)


def _item(parse: Callable[[], Crystal], origin: Origin) -> Candidate | Failure:
    try:
        return Candidate(parse(), origin)
    except ConversionError as error:
        return Failure("", error.reason, _short(error), origin)
    except Exception as error:  # parsers raise anything on damaged files; it is recorded
        return Failure("", Reason.UNREADABLE, f"{type(error).__name__}: {_short(error)}", origin)


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ["no message"]
    return lines[0][:200]


def _entries(files: list[_File]) -> Iterator[Entry]:
    """(source, parser) of every entry; a file that cannot be listed is one entry that fails."""
    for file in files:
        try:
            with file.open() as stream:
                for name, parse in read_entries(stream, file.kind):
                    yield (f"{file.label}#{name}" if name else file.label), parse
        except Exception as error:  # as above: it becomes the entry's failure
            yield file.label, _raiser(error)


def _raiser(error: Exception) -> Callable[[], Crystal]:
    def fail() -> Crystal:
        raise error

    return fail


# --- folders and archives ------------------------------------------------------------------------


def _find(given: str) -> Iterator[_File]:
    path = Path(given).expanduser()
    if path.is_dir():
        yield from _in_folder(path)
    elif not path.is_file():
        raise InputError(f"paths: no file or folder {given!r}")
    elif file_kind(path.name) is None:
        raise InputError(f"paths: {given!r} is of unknown type", hint=f"known: {_KINDS}")
    else:
        yield from _on_disk(path)


def _in_folder(folder: Path) -> Iterator[_File]:
    passed_over = 0
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(names):
            if name.startswith(".") or file_kind(name) is None:
                passed_over += 1
            else:
                yield from _on_disk(Path(root) / name)
    if passed_over:
        _LOG.info("%s: %d files of other types passed over", folder, passed_over)


def _on_disk(path: Path) -> Iterator[_File]:
    kind = file_kind(path.name)
    if kind == "zip":
        yield from _in_zip(path)
    elif kind is not None:
        yield _File(_printable(str(path)), kind, path, partial(_open_file, path))


def _printable(name: str) -> str:
    """A file's name as text that every table and report can hold: bytes that are no UTF-8 in hex."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _open_file(path: Path) -> BinaryIO:
    stream = path.open("rb")
    return _unpack_gzip(stream) if path.name.lower().endswith(".gz") else stream


def _in_zip(path: Path) -> Iterator[_File]:
    """Members by sorted name; they are read in memory, never written to disk."""
    try:
        archive = zipfile.ZipFile(path)  # closed with the last member that refers to it
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        _LOG.info("%s: %s", path, error)
        yield _File(_printable(str(path)), "zip", path, partial(_open_file, path))
        return
    passed_over = 0
    for member in sorted(archive.infolist(), key=lambda m: m.filename):
        parts = PurePosixPath(member.filename).parts
        kind = file_kind(parts[-1]) if parts and not member.is_dir() else None
        if kind in {None, "zip"} or any(p.startswith((".", "__MACOSX")) and p != ".." for p in parts):
            passed_over += not member.is_dir()
        else:
            label = _printable(f"{path}/{member.filename}")
            yield _File(label, str(kind), path, partial(_open_member, archive, member))
    if passed_over:
        _LOG.info("%s: %d members of other types passed over", path, passed_over)


def _open_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> BinaryIO:
    _check_size(member.file_size, member.compress_size)
    with archive.open(member) as stream:
        data = stream.read(_MAX_UNPACKED + 1)  # the directory may lie about the size
    _check_size(len(data), member.compress_size)
    unpacked = io.BytesIO(data)
    return _unpack_gzip(unpacked) if member.filename.lower().endswith(".gz") else unpacked


def _unpack_gzip(packed: BinaryIO) -> BinaryIO:
    with packed, gzip.open(packed) as stream:
        data = stream.read(_MAX_UNPACKED + 1)
        _check_size(len(data), packed.tell())
    return io.BytesIO(data)


def _check_size(unpacked: int, packed: int) -> None:
    if unpacked > _MAX_UNPACKED:
        raise ConversionError(Reason.UNREADABLE, f"unpacks to more than {_MAX_UNPACKED // 2**20} MiB")
    if unpacked > _FREE_UNPACKED and unpacked > _MAX_RATIO * max(packed, 1):
        raise ConversionError(
            Reason.UNREADABLE, f"unpacks to more than {_MAX_RATIO} times its size, as a zip bomb does"
        )
