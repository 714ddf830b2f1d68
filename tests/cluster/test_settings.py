"""The cluster file: what it may say of DFT."""

from __future__ import annotations

from pathlib import Path

import pytest

from heliodor.cluster.settings import load_cluster
from heliodor.core.errors import InputError

PROJECT = """
jobflow_remote:
  project: lab
  worker: mahti
  exec_config: {modules: [abinit], export: {OMP_NUM_THREADS: 1}}
  resources: {nodes: 1, time_limit: 7200}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(text)
    return path


def test_dft_by_jobflow_remote(tmp_path):
    cluster = load_cluster(written(tmp_path, PROJECT))
    assert cluster.dft_elsewhere
    assert cluster.jobflow_remote is not None
    assert cluster.jobflow_remote.resources == {"nodes": 1, "time_limit": 7200}
    assert not load_cluster(written(tmp_path, "relax: {cpus: 4}")).dft_elsewhere


def test_two_ways_for_the_same_calculations(tmp_path):
    with pytest.raises(InputError, match="two ways for the same calculations: give one"):
        load_cluster(written(tmp_path, PROJECT + "dft: {cpus: 4}\n"))
    with pytest.raises(InputError, match=r"jobflow_remote.projekt"):
        load_cluster(written(tmp_path, "jobflow_remote: {projekt: lab}"))
