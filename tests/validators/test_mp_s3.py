"""The S3 path of the client, against moto's server: the Materials Project's own phase diagrams.

Our reference asks the server alone, for it names its thermo type. Here its hull is compared with the one
that the Materials Project would ship, and faults of S3 are told as those of the server are.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
import warnings

import pytest
from pydantic import SecretStr

from heliodor.core.errors import ReferenceUnavailableError
from heliodor.validators.hull import Hull
from heliodor.validators.mp_client import MpClient
from heliodor.validators.mp_patience import Patience, patiently
from heliodor.validators.mp_supply import MpSupply
from heliodor.validators.reference_mp import materials_project

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mp_server")]

SYSTEM = ("Fe", "Li", "O")
OPEN = {"AWS_SKIP_SIGNATURE": "true", "AWS_REGION": "us-east-1", "AWS_S3_ALLOW_UNSAFE_RENAME": "true"}


@pytest.fixture
def s3(monkeypatch):
    """moto's server in a process of its own: the client's query engine holds the interpreter's lock."""
    pytest.importorskip("moto", reason="moto is not installed (extra dev)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            try:
                urllib.request.urlopen(url, timeout=2)
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.1)
        given = {"ENDPOINT_URL": url, "ALLOW_HTTP": "true", "REGION": "us-east-1"}
        given |= {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "y"}
        for name, value in given.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        yield url
    finally:
        process.kill()
        process.wait()


def fit(value, kind):
    """A document's value as Arrow wants it for a type of emmet's schema."""
    import pyarrow as pa

    if value is None:
        return None
    if pa.types.is_map(kind):
        pairs = value.items() if isinstance(value, dict) else value
        return [(key, fit(item, kind.item_type)) for key, item in pairs]
    if pa.types.is_struct(kind):
        if isinstance(value, str):  # an entry's id
            value = dict(zip(("identifier", "suffix"), value.rsplit("-", 1), strict=True))
            value["separator"] = "-"
        return {field.name: fit(value.get(field.name), field.type) for field in kind}
    return [fit(item, kind.value_type) for item in value] if pa.types.is_list(kind) else value


def publish(url, entries, version):
    """A phase diagram in the bucket, as the Materials Project keeps them."""
    import boto3
    import pyarrow as pa
    from deltalake import write_deltalake
    from emmet.core.arrow import arrowize
    from emmet.core.thermo import PhaseDiagramDoc, ThermoDoc
    from pymatgen.analysis.phase_diagram import PhaseDiagram

    made = ThermoDoc.construct_phase_diagram(entries)
    computed = made.computed_data
    computed["facets"] = [[int(i) for i in facet] for facet in computed["facets"]]
    diagram = PhaseDiagram(entries, elements=made.elements, computed_data=computed)
    named = {"chemsys": "Fe-Li-O", "thermo_type": "GGA_GGA+U"}
    document = PhaseDiagramDoc(
        phase_diagram_id="Fe-Li-O_GGA_GGA+U", phase_diagram=diagram, **named
    ).model_dump(context={"format": "arrow"})
    kind = arrowize(PhaseDiagramDoc).field("phase_diagram").type
    text = [pa.field(name, pa.string()) for name in ("chemsys", "thermo_type", "version")]
    row = {**named, "version": version.replace(".", "-")}
    row["phase_diagram"] = fit(document["phase_diagram"], kind)
    table = pa.Table.from_pylist([row], schema=pa.schema([pa.field("phase_diagram", kind), *text]))
    store = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
    store.create_bucket(Bucket="materialsproject-build", ACL="public-read-write")
    write_deltalake("s3a://materialsproject-build/objects/phase-diagrams/", table, storage_options=OPEN)


def test_our_hull_is_the_one_that_would_be_shipped(mp_server, s3, tmp_path, monkeypatch):
    from mp_api.client import MPRester

    entries = [e for e in mp_server.entries() if {x.symbol for x in e.composition} <= set(SYSTEM)]
    publish(s3, entries, mp_server.VERSION)
    supply = MpSupply(tmp_path / "mp", "GGA_GGA+U", MpClient(SecretStr(mp_server.KEY)))
    known = materials_project(supply, SYSTEM, tmp_path)

    def shipped():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with MPRester(mp_server.KEY, mp_server.address, mute_progress_bars=True) as client:
                thermo = client.materials.thermo
                return thermo.get_phase_diagram_from_chemsys("Fe-Li-O", "GGA_GGA+U")

    diagram = patiently(shipped, "Fe-Li-O", Patience(), mp_server.KEY)
    theirs = sorted(diagram.get_form_energy_per_atom(e) for e in diagram.all_entries)
    phases = known.entries(SYSTEM)
    assert sorted(p.formation_energy_per_atom for p in phases) == pytest.approx(theirs, abs=1e-6)
    lowest = Hull(phases).ground_states([p.composition for p in phases]).energies.tolist()
    ours = [p for p, e in zip(phases, lowest, strict=True) if p.formation_energy_per_atom - e < 1e-8]
    assert len(ours) == len(diagram.stable_entries)

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    waited = []
    patience = Patience(waits=(3.0,), sleep=waited.append)
    with pytest.raises(ReferenceUnavailableError, match="cannot be reached") as caught:
        patiently(shipped, "Fe-Li-O", patience, mp_server.KEY)
    assert waited == [3.0]
    assert caught.value.__context__ is None
