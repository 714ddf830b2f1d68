"""Collections of JSON documents in one SQLite file.

A connection lives for one call only. So there is nothing to hand over to a thread or to a forked
child, nothing that keeps others out between calls, and nothing left by a job that does not close its
store. (One limit of SQLite remains: do not fork while another thread is within a call.)

The journal is SQLite's rollback journal, synchronised at each commit, not a write-ahead log: calculation
folders lie on file systems that the nodes of a cluster share, where a write-ahead log, whose index is
shared memory, may be read wrongly; and between calls the folder holds one file, which may be copied.
What a killed process left half done is rolled back by whoever opens the file next. Synchronised, for a
job's document costs minutes to days of computing and the wait for the disk milliseconds
(`benchmarks/job_store.py`); without it, a power failure could leave a damaged file.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

from ..core.errors import StorageError

_APPLICATION = 0x48656C6A  # "Helj": marks the file as ours
_FORMAT = 1
_BUSY = 60.0  # seconds to wait for another writer

_SCHEMA = (
    """CREATE TABLE document (id INTEGER PRIMARY KEY, collection TEXT NOT NULL, oid TEXT NOT NULL,
    body TEXT NOT NULL, crc INTEGER NOT NULL, UNIQUE (collection, oid))""",
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {_FORMAT}",
)
# Paths that mean the same to MongoDB and to SQLite; `_id` is not part of the text.
_FIELD = re.compile(r"(?!_id\b)[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_EXACT = 2**53  # whole numbers below it are the same for Python and SQLite, written as 1 or as 1.0

# Beginnings of SQLite's names of errors -> what it means to the user.
_MEANING = {
    "SQLITE_NOTADB": ("is not a SQLite database", "name another file, or move this one aside"),
    "SQLITE_CORRUPT": ("is damaged", "move it aside and compute again what it held"),
    "SQLITE_READONLY": ("cannot be written to", "make the file and its folder writable"),
    "SQLITE_FULL": ("cannot grow: the disk is full", "free some space; what was stored is kept"),
    "SQLITE_BUSY": (f"was held by another process for over {_BUSY:g} s", "end that process, or wait"),
    "SQLITE_CANTOPEN": ("cannot be opened", "its folder must be there and writable"),
    "SQLITE_IOERR": ("cannot be read or written", "check the disk and its quota"),
    "SQLITE_TOOBIG": ("takes no document over 1 GB", "keep large data in files"),
    "SQLITE_CONSTRAINT": ("has another document with this _id", None),
}


class DocumentFile:
    """A file of documents; every call is one transaction.

    Args:
        path: absolute, for jobs change the working directory.

    All calls raise StorageError where the disk or SQLite refuses; then nothing of the call is stored.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self) -> None:
        """Make the file if it is not there, and check that it is of this kind and format."""
        with self._connected("rwc") as connection:
            if not _is_ours(connection, self.path):
                connection.execute("BEGIN IMMEDIATE")
                if not _is_ours(connection, self.path):  # another process may have been first
                    for statement in _SCHEMA:
                        connection.execute(statement)
                connection.execute("COMMIT")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for single SELECT statements, each fetched at once."""
        with self._connected("rw") as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is stored, or nothing. Other writers wait."""
        with self._connected("rw") as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")  # without it, closing rolls back

    @contextmanager
    def _connected(self, mode: str) -> Iterator[sqlite3.Connection]:
        try:
            uri = f"{self.path.as_uri()}?mode={mode}"
            opened = sqlite3.connect(uri, uri=True, timeout=_BUSY, isolation_level=None)
            with closing(opened) as connection:
                connection.execute("PRAGMA synchronous = FULL")
                yield connection
        except sqlite3.Error as error:
            raise _storage_error(self.path, error) from error


def _is_ours(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether it is a file of documents; False for an empty file."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != _APPLICATION and (tables or application):
        raise StorageError(f"{path} is a SQLite database of another program", hint="name another file")
    if version > _FORMAT:
        raise StorageError(
            f"{path} has format {version}, written by a newer Heliodor; this one knows {_FORMAT}",
            hint="pip install --upgrade heliodor",
        )
    return bool(tables)


def _storage_error(path: Path, error: sqlite3.Error) -> StorageError:
    name = getattr(error, "sqlite_errorname", "") or ""
    for beginning, (meaning, hint) in _MEANING.items():
        if name.startswith(beginning):
            return StorageError(f"{path} {meaning} ({error})", hint=hint)
    return StorageError(f"{path}: {error}")


def index(connection: sqlite3.Connection, field: str) -> bool:
    """Index a field, of all collections, by its dotted path; False for a name that SQLite cannot."""
    if not _FIELD.fullmatch(field):
        return False
    connection.execute(
        f'CREATE INDEX IF NOT EXISTS "document.{field}" ON document (collection, {_value(field)})'
    )
    return True


def candidates(
    connection: sqlite3.Connection, collection: str, criteria: Mapping[str, Any]
) -> list[int]:
    """Rows that may match, oldest first; every row that matches is among them.

    Equality with texts and whole numbers (`{"uuid": u}`, `$eq`, `$in`) is asked of SQLite, by an index
    where there is one; the caller judges what is left of the criteria.
    """
    asked = {field: values for field, value in criteria.items() if (values := _values(field, value))}
    indexed = {name for (name,) in connection.execute("SELECT name FROM sqlite_master").fetchall()}
    first = next((field for field in asked if f"document.{field}" in indexed), None)
    where, parameters = ["collection = ?"], [collection]
    if first is not None:
        where, parameters = _by_index(collection, first, asked.pop(first))
    for field, values in asked.items():
        where.append(f"({' OR '.join(_tests(field))})")
        parameters.append(values)
    query = f"SELECT id FROM document WHERE {' AND '.join(where)} ORDER BY id"  # noqa: S608
    return [row for (row,) in connection.execute(query, parameters).fetchall()]


def read(connection: sqlite3.Connection, rows: Sequence[int]) -> list[tuple[int, str, str]]:
    """(row, text of `_id`, text of the document) of the rows that are still there.

    Raises:
        sqlite3.DatabaseError: a text is not what was written; SQLite itself would not notice.
    """
    query = (
        "SELECT id, CAST(oid AS BLOB), CAST(body AS BLOB), crc FROM document"
        " WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id"
    )
    found = connection.execute(query, [json.dumps(list(rows))]).fetchall()
    for row, oid, body, crc in found:
        if crc32(oid + body) != crc:
            raise sqlite3.DatabaseError(f"document {row} is damaged")
    return [(row, oid.decode(), body.decode()) for row, oid, body, _ in found]


def insert(connection: sqlite3.Connection, collection: str, oid: str, body: str) -> None:
    """Add a document."""
    connection.execute(
        "INSERT INTO document (collection, oid, body, crc) VALUES (?, ?, ?, ?)",
        (collection, oid, body, crc32((oid + body).encode())),
    )


def replace(connection: sqlite3.Connection, row: int, oid: str, body: str) -> None:
    """Put another document in the place of one."""
    connection.execute(
        "UPDATE document SET oid = ?, body = ?, crc = ? WHERE id = ?",
        (oid, body, crc32((oid + body).encode()), row),
    )


def _by_index(collection: str, field: str, values: str) -> tuple[list[str], list[str]]:
    # One SELECT per test: with OR, SQLite would not use the index.
    parts = [f"SELECT id FROM document WHERE collection = ? AND {test}" for test in _tests(field)]  # noqa: S608
    parameters = [p for test in _tests(field) for p in [collection, values][: 1 + test.count("?")]]
    return [f"id IN ({' UNION ALL '.join(parts)})"], parameters


def _tests(field: str) -> list[str]:
    """Equal to one of the values; or an array, whose JSON text begins with "[", and may hold one."""
    value = _value(field)
    one_of = f"{value} IN (SELECT value FROM json_each(?))"  # noqa: S608
    tests = [one_of, f"({value} >= '[' AND {value} < '\\')"]
    # MongoDB's dots lead through arrays as well, SQLite's do not.
    return [*tests, f"{value} IS NULL"] if "." in field else tests


def _value(field: str) -> str:
    return f"json_extract(body, '$.{field}')"


def _values(field: str, value: Any) -> str | None:
    """The values that are asked for, as a JSON array; None if SQLite cannot tell."""
    if isinstance(value, Mapping):
        value = value["$in"] if "$in" in value else [value.get("$eq")]
    else:
        value = [value]
    if not _FIELD.fullmatch(field) or not isinstance(value, list | tuple):
        return None
    return json.dumps(list(value)) if all(_is_exact(item) for item in value) else None


def _is_exact(value: Any) -> bool:
    if isinstance(value, str):
        return value.isascii() and "\0" not in value
    return isinstance(value, int) and abs(value) < _EXACT
