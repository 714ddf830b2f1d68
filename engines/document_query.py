"""Order and projection of documents as in maggma's MemoryStore, by its own code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

from maggma.core import Sort
from maggma.stores import MemoryStore
from mongomock_ng.filtering import resolve_sort_key

_BATCH = 64  # documents in memory at once while they are projected

Document = dict[str, Any]
Criteria = dict[str, Any] | None
Properties = dict[str, Any] | list[str] | None
Order = dict[str, Sort | int] | None


def narrowed(
    found: Iterable[Document], properties: Properties, sort: Mapping[str, Any]
) -> Iterator[Document]:
    """Documents without the fields that neither a plain projection nor the order needs."""
    shown = _shown(properties)
    if not shown:
        yield from found
        return
    names = {name.split(".")[0] for name in ("_id", *shown, *sort)}
    for document in found:
        yield {name: value for name, value in document.items() if name in names}


def ordered(found: Iterable[Document], sort: Mapping[str, Sort | int]) -> list[Document]:
    """Documents in an order; those that are equal in it stay as they come."""
    documents = list(found)
    for field, direction in reversed(list(sort.items())):
        descending = Sort(direction) is Sort.Descending
        documents.sort(key=partial(resolve_sort_key, field), reverse=descending)
    return documents


def projected(
    found: Iterator[Document], properties: dict[str, Any] | list[str], criteria: Criteria
) -> Iterator[Document]:
    """Parts of the documents. The criteria decide what a positional projection (`a.$`) shows."""
    shown = _shown(properties)
    if shown and not any("." in name for name in shown):
        names = {"_id", *shown}
        yield from ({name: each[name] for name in each if name in names} for each in found)
        return
    while batch := list(islice(found, _BATCH)):
        yield from memory_store(batch).query(None if shown else criteria, properties)


def _shown(properties: Properties) -> list[str]:
    """The fields that a projection names; none if it does more than to name some."""
    asked = dict.fromkeys(properties, 1) if isinstance(properties, list) else properties or {}
    plain = all(value == 1 and "$" not in name for name, value in asked.items())
    return list(asked) if plain else []


def memory_store(documents: Iterable[Document]) -> MemoryStore:
    """A MemoryStore of a few documents, to let maggma do the rest."""
    scratch = MemoryStore()
    scratch.connect()
    filled = list(documents)
    if filled:
        scratch._collection.insert_many(filled)  # noqa: SLF001
    return scratch
