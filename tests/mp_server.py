"""The Materials Project's own server code on loopback, over a database in memory, with faults at will.

The server is emmet-api as it runs at the Materials Project; the documents are made by emmet from entries
of ours. It checks the key and shows faults by a small ASGI layer, for in emmet-api there is neither.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from contextlib import contextmanager

KEY = "0123456789abcdefghijklmnopqrstuV"
VERSION = "2025.09.25"

# A cell for each phase: cubic, with atoms on simple sites. Only composition and energy matter for the
# hull; the energies are made up, of the size that PBE with PBE+U gives.
SITES = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5), (0.25, 0.25, 0.25)]
SITES += [(0.75, 0.75, 0.75), (0.75, 0.25, 0.25)]
GGA = [  # id, elements, a (angstrom), energy of the cell and its correction (eV)
    ("mp-135", "Li", 3.4, -1.90, 0),
    ("mp-51", "Li Li", 4.4, -3.79, 0),
    ("mp-13", "Fe", 2.8, -8.46, 0),
    ("mp-12957", "O O", 4.2, -9.86, 0),
    ("mp-1960", "Li Li O", 4.6, -14.30, -0.69),
    ("mp-841", "Li O", 4.1, -9.05, -0.47),
    ("mp-18905", "Fe O", 4.3, -13.70, -2.94),
    ("mp-19770", "Fe Fe O O O", 5.1, -33.50, -6.57),
    ("mp-18782", "Li Fe O O", 4.9, -24.10, -3.64),
    ("mp-1244580", "Li Fe O O", 5.0, -23.60, -3.64),
    ("mp-756694", "Li Li Li Li Li Fe O O", 6.0, -33.0, -3.64),
    ("mp-abcdefgh", "Li Li Fe O O O", 5.6, -31.2, -4.33),
    ("mp-999", "Fe Fe Fe Li", 4.8, -25.0, 0),
    ("mp-22862", "Na Cl", 4.0, -6.80, -0.61),
    ("mp-127", "Na", 4.2, -1.31, 0),
    ("mp-22848", "Cl Cl", 5.1, -3.68, 0),
    ("mp-2117", "Po O", 4.4, -9.9, -0.69),  # and no Po
]
R2SCAN = [
    ("mp-135", "Li", 3.4, -2.35, 0),
    ("mp-12957", "O O", 4.2, -12.1, 0),
    ("mp-1960", "Li Li O", 4.6, -18.20, 0),
]


def entry(name, elements, a, energy, correction, run_type="GGA"):
    from pymatgen.core import Lattice, Structure
    from pymatgen.entries.computed_entries import ComputedStructureEntry, ManualEnergyAdjustment

    species = elements.split()
    data = {"material_id": name, "task_id": name, "license": "BY-C"}
    return ComputedStructureEntry(
        Structure(Lattice.cubic(a), species, SITES[: len(species)]),
        energy,
        energy_adjustments=[ManualEnergyAdjustment(correction)] if correction else [],
        entry_id=f"{name}-{run_type}",
        parameters={
            "run_type": run_type,
            "hubbards": {},
            "potcar_spec": [{"titel": f"PAW_PBE {s}", "hash": None} for s in dict.fromkeys(species)],
        },
        data={**data, "run_type": run_type, "oxidation_states": {}},
    )


def entries():
    """The GGA/GGA+U entries that the server has, but for that of polonium."""
    return [entry(*row) for row in GGA if "Po" not in row[1]]


class Collection:
    """As much of an asynchronous MongoDB collection as the server uses; it is its own store too."""

    key = "material_id"

    def __init__(self):
        import mongomock_ng

        self._documents = mongomock_ng.MongoClient().db.thermo

    @property
    def collection(self):
        return self

    def put(self, entries, thermo_type):
        """Documents of entries on one hull, as the Materials Project's builder makes them."""
        from emmet.core.thermo import ThermoDoc

        for document in ThermoDoc.from_entries(entries, thermo_type, deprecated=False):
            self._documents.insert_one(document.model_dump(mode="json"))

    def only(self, formula, thermo_type):
        """Of the documents of an unknown hull only those of a formula are kept, put on another hull."""
        unknown = {"thermo_type": "UNKNOWN"}
        self._documents.update_many(
            {**unknown, "formula_pretty": formula}, {"$set": {"thermo_type": thermo_type}}
        )
        self._documents.delete_many(unknown)

    async def count_documents(self, criteria, **_):
        return self._documents.count_documents(criteria)

    async def estimated_document_count(self):
        return self._documents.estimated_document_count()

    async def aggregate(self, pipeline, **_):
        return _Cursor(list(self._documents.aggregate(pipeline)))


class _Cursor:
    def __init__(self, found):
        self._found = found

    async def to_list(self):
        return self._found


class Layer:
    """Around the server: counts what is asked, refuses other keys, and shows the faults of `plan`."""

    def __init__(self, app, meta):
        self._app, self.meta = app, meta
        self.plan, self.asked = [], []

    def fault(self, path, *actions):
        """The next requests whose address holds `path` meet these, one each."""
        self.plan += [(path, action) for action in actions]

    def searches(self):
        """Requests for documents, without those that only count or probe."""
        return [query for path, query in self.asked if "thermo" in path and "_limit=1000" in query]

    def reset(self):
        self.plan.clear()
        self.asked.clear()
        self.meta["db_version"] = VERSION

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, headers = scope["path"], dict(scope["headers"])
        self.asked.append((path, scope["query_string"].decode()))
        scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]
        if path != "/heartbeat" and headers.get(b"x-api-key", b"").decode() != KEY:
            await status(401)(self, scope, receive, send)
            return
        address = f"{path}?{self.asked[-1][1]}"
        planned = next((item for item in self.plan if item[0] in address), None)
        if planned is None:
            await self._app(scope, receive, send)
            return
        self.plan.remove(planned)
        await planned[1](self, scope, receive, send)

    async def answer(self, scope, receive):
        """What the server itself says: status, headers, body."""
        start, parts = {}, []

        async def keep(message):
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                parts.append(message.get("body", b""))

        await self._app(scope, receive, keep)
        return start, b"".join(parts)


async def _send(send, code, body, headers=()):
    length = (b"content-length", str(len(body)).encode())
    kind = (b"content-type", b"application/json")
    await send({"type": "http.response.start", "status": code, "headers": [kind, length, *headers]})
    await send({"type": "http.response.body", "body": body})


def status(code, **headers):
    async def action(layer, scope, receive, send):
        given = [(name.replace("_", "-").encode(), str(v).encode()) for name, v in headers.items()]
        body = json.dumps({"detail": f"no: {code}", "key": KEY}).encode()
        await _send(send, code, body, given)

    return action


def hang(seconds):
    async def action(layer, scope, receive, send):
        await asyncio.sleep(seconds)
        await _send(send, 200, b"{}")

    return action


async def cut_off(layer, scope, receive, send):
    """The connection ends in the middle of the body."""
    _, body = await layer.answer(scope, receive)
    length = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": False})


async def cut_json(layer, scope, receive, send):
    """Half a document, sent as if it were whole."""
    _, body = await layer.answer(scope, receive)
    await _send(send, 200, body[: len(body) // 2])


def edit(change):
    """The server's answer, changed."""

    async def action(layer, scope, receive, send):
        _, body = await layer.answer(scope, receive)
        content = json.loads(body)
        change(content)
        await _send(send, 200, json.dumps(content).encode())

    return action


def new_version(version):
    """The database changes while the question is answered."""

    async def action(layer, scope, receive, send):
        layer.meta["db_version"] = version
        start, body = await layer.answer(scope, receive)
        await _send(send, start["status"], body)

    return action


def all_documents():
    """What the server has: two hulls, and an oxide of polonium without polonium."""
    documents = Collection()
    documents.put(entries(), "GGA_GGA+U")
    documents.put([entry(*row, run_type="r2SCAN") for row in R2SCAN], "r2SCAN")
    oxygen = next(row for row in GGA if row[1] == "O O")
    polonium = [row for row in GGA if "Po" in row[1]]
    lone = ("mp-0", "Po", 3.3, -3.2, 0)
    documents.put([entry(*row) for row in (*polonium, lone, oxygen)], "UNKNOWN")
    documents.only("PoO", "GGA_GGA+U")
    return documents


@contextmanager
def serve():
    """The server, running; gives its address and its layer."""
    import uvicorn
    from emmet.api.core.api import MAPI
    from emmet.api.routes.materials.materials.resources import (
        find_structure_resource,
        materials_resource,
    )
    from emmet.api.routes.materials.thermo.resources import thermo_resource

    documents = all_documents()
    meta = {"db_version": VERSION, "access_controlled_batch_ids": []}
    resources = [make(documents) for make in (materials_resource, find_structure_resource)]
    api = MAPI(resources={"materials": [*resources, thermo_resource(documents)]}, heartbeat_meta=meta)
    layer = Layer(api.app, meta)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(layer, log_level="critical", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/", layer
        finally:
            server.should_exit = server.force_exit = True
            thread.join(10)
