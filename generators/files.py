"""Crystals from files: what other generators wrote, or what you have."""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import os
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from .. import __version__
from ..core.convert import ConversionError, DisorderedError
from ..core.crystal import Crystal
from ..core.errors import InputError
from ..core.records import Candidate, Conditions, Failure, Origin, Reason
from .disorder import order_structure
from .readers import Entry, file_kind, read_entries

_LOG = logging.getLogger("heliodor.generators")

_MAX_UNPACKED = 256 * 2**20  # bytes of one packed file
_MAX_RATIO = 200  # unpacked over packed; CIF text packs to about a tenth
_FREE_UNPACKED = 2**20  # below this the ratio says nothing
_ENCRYPTED = 0x1  # bit of a zip member's flags
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
    takes its position; so does an archive inside an archive. Files of other types in a folder or archive
    are passed over. Entries of the same name get a number, so that no two sources are the same.
    Conditions and seed change nothing: judging what was read is the validity check's work.

    Reading goes on from where the call before ended; files are listed again only to go back.

    Args:
        paths: files, folders or zip archives.
        disorder: what becomes of partly occupied sites: "reject" makes them failures, "order" orders
            them (`disorder.order_structure`), and the origin's source says so.
    """

    name = "files"

    def __init__(self, paths: Sequence[str], disorder: Literal["reject", "order"] = "reject") -> None:
        self.paths = tuple(paths)
        self.disorder = disorder
        self._lock = threading.Lock()
        self._cursor: _Cursor | None = None  # where the last call ended; taken out while one reads

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
            InputError: a path is missing or of unknown type, or none of them holds a file to read.
        """
        cursor = self._take(start)
        return self._items(cursor, seed, start, start + n)

    def _files(self) -> list[_File]:
        if not self.paths:
            raise InputError("paths: no files given", hint=_KINDS)
        found = [file for path in self.paths for file in _find(path)]
        if not found:
            raise InputError(f"paths: nothing to read in {', '.join(self.paths)}", hint=_KINDS)
        seen: Counter[str] = Counter()
        return [replace(file, label=_numbered(file.label, seen)) for file in found]

    def _take(self, start: int) -> _Cursor:
        with self._lock:
            cursor, self._cursor = self._cursor, None
        if cursor is None or cursor.position > start:
            return _Cursor(_entries(self._files()))
        return cursor

    def _items(self, cursor: _Cursor, seed: int, start: int, stop: int) -> Iterator[Candidate | Failure]:
        try:
            cursor.skip_to(start)
            while cursor.position < stop:
                index = cursor.position
                entry = next(cursor, None)
                if entry is None:
                    return
                source, parse = entry
                yield self._item(parse, Origin(self.name, __version__, seed, index, source=source))
        finally:
            with self._lock:
                self._cursor = cursor

    def _item(self, parse: Callable[[], Crystal], origin: Origin) -> Candidate | Failure:
        try:
            try:
                return Candidate(parse(), origin)
            except DisorderedError as error:
                if self.disorder == "reject" or error.structure is None:
                    raise
                crystal, how = order_structure(error.structure)
                return Candidate(crystal, replace(origin, source=f"{origin.source} [{how}]"))
        except ConversionError as error:
            return Failure("", error.reason, _short(error), origin)
        except Exception as error:  # parsers raise anything on damaged files; it is recorded
            return Failure("", Reason.UNREADABLE, f"{type(error).__name__}: {_short(error)}", origin)


class _Cursor:
    """Entries of files one by one, and how many have passed."""

    def __init__(self, entries: Iterator[Entry]) -> None:
        self._entries = entries
        self.position = 0

    def __iter__(self) -> _Cursor:
        return self

    def __next__(self) -> Entry:
        entry = next(self._entries)
        self.position += 1
        return entry

    def skip_to(self, position: int) -> None:
        """Pass over entries before `position`, if there are so many."""
        for _ in islice(self, position - self.position):
            pass


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ["no message"]
    return lines[0][:200]


def _numbered(name: str, seen: Counter[str]) -> str:
    """The name, with a number from its second time on."""
    seen[name] += 1
    return name if seen[name] == 1 else f"{name} ({seen[name]})"


def _entries(files: list[_File]) -> Iterator[Entry]:
    """(source, parser) of every entry; a file that cannot be listed is one entry that fails."""
    for file in files:
        seen: Counter[str] = Counter()
        try:
            with file.open() as stream:
                for name, parse in read_entries(stream, file.kind):
                    source = f"{file.label}#{name}" if name else file.label
                    yield _numbered(source, seen), parse
        except Exception as error:  # as above: it becomes the entry's failure
            yield _numbered(file.label, seen), _raiser(error)


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
        if kind is None or any(p.startswith((".", "__MACOSX")) and p != ".." for p in parts):
            passed_over += not member.is_dir()
        else:
            label = _printable(f"{path}/{member.filename}")
            yield _File(label, kind, path, partial(_open_member, archive, member, kind))
    if passed_over:
        _LOG.info("%s: %d members of other types passed over", path, passed_over)


def _open_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, kind: str) -> BinaryIO:
    if kind == "zip":
        raise ConversionError(Reason.UNREADABLE, "an archive inside an archive: unpack it first")
    if member.flag_bits & _ENCRYPTED:
        raise ConversionError(Reason.UNREADABLE, "encrypted: unpack it with its password first")
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
