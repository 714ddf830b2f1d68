"""A store of job documents in one SQLite file, for jobflow without MongoDB.

    store = JobStore(
        SqliteStore("jobs.sqlite", "jobs"),
        additional_stores={"data": SqliteStore("jobs.sqlite", "data")},
    )

It answers as maggma's MemoryStore does: SQLite looks up what must be equal, and the same code that
judges, sorts and projects for a MemoryStore (mongomock's) does so for the rows that are left.

Needs maggma, which comes with jobflow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import bson
from maggma.core import Store, StoreError
from maggma.core.store import DateTimeFormat
from maggma.core.validator import Validator
from mongomock_ng.filtering import filter_applies
from monty.json import jsanitize

from .document_file import DocumentFile, candidates, index, insert, read, replace
from .document_json import decode, encode
from .document_query import (
    Criteria,
    Document,
    Order,
    Properties,
    memory_store,
    narrowed,
    ordered,
    projected,
)

_BATCH = 64  # documents in memory at once while a store is searched


class SqliteStore(Store):
    """A collection of documents in a SQLite file.

    Several collections may share a file, and several threads, processes and machines may write to it:
    an update waits for others, and is stored as a whole or not at all, also if the process is killed in
    the middle. Of two updates of one document the later one stays.

    A query holds no lock between two documents. It yields whole documents, each as it was when read.
    One with `sort` holds in memory what it sorts: of each document that matches, the fields that
    `properties` and `sort` name.

    Args:
        path: the file; made by `connect`, not its folder. A relative path is resolved at once.
        collection_name: documents of another name are not seen.
        key: field that tells documents apart. jobflow's JobStore sets it.
        last_updated_field, last_updated_type, validator: as in maggma.

    Raises:
        StorageError: not a database, another program's, a newer format, damaged, or not writable; disk
            full. From any call.
    """

    def __init__(
        self,
        path: str | Path,
        collection_name: str,
        key: str = "task_id",
        last_updated_field: str = "last_updated",
        last_updated_type: DateTimeFormat = DateTimeFormat.DateTime,
        validator: Validator | None = None,
    ) -> None:
        self.path = str(Path(path).resolve())
        self.collection_name = collection_name
        self.searchable_fields: list[str] = []  # JobStore adds what it looks for in additional stores
        self._file = DocumentFile(Path(self.path))
        self._is_connected = False
        super().__init__(key, last_updated_field, last_updated_type, validator)

    @property
    def name(self) -> str:
        """Names the file and the collection."""
        return f"sqlite://{self.path}/{self.collection_name}"

    @property
    def _collection(self) -> Any:
        raise StoreError(f"{self.name} has no pymongo collection; use the store's own methods")

    def connect(self, force_reset: bool = False) -> None:
        """Make the file if it is not there, or check it; no connection is held."""
        if force_reset or not self._is_connected:
            self._file.prepare()
            self._is_connected = True

    def close(self) -> None:
        """Refuse calls until `connect`; there is nothing to release."""
        self._is_connected = False

    def count(self, criteria: Criteria = None) -> int:
        """How many documents match."""
        rows = self._candidates(criteria or {})
        return sum(1 for _ in self._matching(rows, criteria)) if criteria else len(rows)

    def query(
        self,
        criteria: Criteria = None,
        properties: Properties = None,
        sort: Order = None,
        skip: int = 0,
        limit: int = 0,
    ) -> Iterator[Document]:
        """Documents that match, oldest first, or in the order of `sort`.

        Args:
            criteria: a filter of MongoDB, as far as mongomock knows it.
            properties: names of fields, or a projection of MongoDB.
            sort: field -> 1, -1 or Sort.
            skip: documents left out at the beginning.
            limit: documents at most; 0 for all.
        """
        rows = self._candidates(criteria or {})
        found: Iterable[Document] = (document for _, document in self._matching(rows, criteria))
        if sort:
            found = ordered(narrowed(found, properties, sort), sort)
        part = islice(found, skip, skip + limit if limit else None)
        yield from part if properties is None else projected(part, properties, criteria)

    def update(self, docs: list[Document] | Document, key: list[str] | str | None = None) -> None:
        """Store documents in one transaction, in the place of those with the same key.

        A document keeps the `_id` of the one that it replaces.

        Args:
            docs: what `monty.json.jsanitize` makes JSON of; dates, bytes, object ids stay as they are.
            key: field or fields that tell documents apart; the store's own if None.

        Raises:
            KeyError: a document lacks the key. ValueError: a strict validator refuses it.
            TypeError, bson.errors.InvalidDocument, OverflowError: MongoDB would not take it.
        """
        self._check_connected()
        fields = key or self.key
        fields = [fields] if isinstance(fields, str) else fields
        ready = [
            (searched, document.pop("_id", None) or bson.ObjectId(), document)
            for document in self._valid(docs if isinstance(docs, list) else [docs])
            for searched in [{field: document[field] for field in fields}]
        ]
        texts = [(searched, encode(oid), encode(document)) for searched, oid, document in ready]
        with self._file.writing() as connection:
            for field in (fields[0], *self.searchable_fields):
                index(connection, field)
            for searched, oid, body in texts:
                rows = candidates(connection, self.collection_name, searched)
                old = next(_matches(read(connection, rows), searched), None)
                if old is None:
                    insert(connection, self.collection_name, oid, body)
                else:
                    row, replaced = old
                    replace(connection, row, encode(replaced["_id"]), body)

    def remove_docs(self, criteria: dict[str, Any]) -> None:
        """Remove the documents that match, all or none."""
        self._check_connected()
        with self._file.writing() as connection:
            rows = candidates(connection, self.collection_name, criteria)
            for batch in _batches(rows):
                for row, _ in _matches(read(connection, batch), criteria):
                    connection.execute("DELETE FROM document WHERE id = ?", (row,))

    def distinct(self, field: str, criteria: Criteria = None, all_exist: bool = False) -> list[Any]:
        """The different values of a field. `all_exist` changes nothing, as in maggma's own stores."""
        del all_exist
        scratch = memory_store(self.query(criteria, [field.split(".", maxsplit=1)[0]]))
        return list(scratch.distinct(field))

    def groupby(
        self,
        keys: list[str] | str,
        criteria: Criteria = None,
        properties: Properties = None,
        sort: Order = None,
        skip: int = 0,
        limit: int = 0,
    ) -> Iterator[tuple[Document, list[Document]]]:
        """(values of the keys, their documents); sort, skip and limit apply before grouping."""
        keys = [keys] if isinstance(keys, str) else keys
        names = list(properties or [])
        scratch = memory_store(self.query(criteria, [*keys, *names], sort, skip, limit))
        yield from scratch.groupby(keys, properties=names)

    def ensure_index(self, key: str, unique: bool = False) -> bool:
        """Index a field, by its dotted path; False if its name is not of letters, digits, "_" and dots.

        Raises:
            NotImplementedError: `unique`; an update with a key replaces instead.
        """
        if unique:
            raise NotImplementedError("SqliteStore keeps no unique indexes; update by key instead")
        self._check_connected()
        with self._file.writing() as connection:
            return index(connection, key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SqliteStore) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[str, str, str]:
        return self.path, self.collection_name, self.last_updated_field

    def _check_connected(self) -> None:
        if not self._is_connected:
            raise StoreError(f"connect {self.name} before using it")

    def _valid(self, docs: Iterable[Any]) -> Iterator[Document]:
        """The documents as they are stored, without those that the validator refuses."""
        for given in docs:
            document = jsanitize(given, allow_bson=True, recursive_msonable=True)
            bson.encode(document)  # or a query could not hand it to mongomock
            if any(field.startswith("$") for field in document):
                raise bson.errors.InvalidDocument('names of fields must not begin with "$"')
            if self.validator is None or self.validator.is_valid(document):
                yield document
            elif getattr(self.validator, "strict", False):
                raise ValueError(self.validator.validation_errors(document))
            else:
                self.logger.error(self.validator.validation_errors(document))

    def _candidates(self, criteria: dict[str, Any]) -> list[int]:
        self._check_connected()
        with self._file.reading() as connection:
            return candidates(connection, self.collection_name, criteria)

    def _matching(self, rows: Sequence[int], criteria: Criteria) -> Iterator[tuple[int, Document]]:
        for batch in _batches(rows):
            with self._file.reading() as connection:
                found = read(connection, batch)
            yield from _matches(found, criteria)


def _batches(rows: Sequence[int]) -> Iterator[Sequence[int]]:
    return (rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH))


def _matches(
    found: Iterable[tuple[int, str, str]], criteria: Criteria
) -> Iterator[tuple[int, Document]]:
    for row, oid, body in found:
        document = {"_id": decode(oid), **decode(body)}
        if not criteria or filter_applies(criteria, document):
            yield row, document
