"""The batch system that a cluster file names."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import InputError
from .scheduler import Scheduler
from .settings import Cluster
from .slurm import Slurm


def scheduler_of(cluster: Cluster, jobs: Path) -> Scheduler:
    """The batch system of a cluster file.

    Args:
        jobs: folder of the job folders, for the records of those that keep any.

    Raises:
        InputError: dask without an address. MissingError: the extra is not installed.
    """
    if cluster.scheduler == "slurm":
        return Slurm()
    if cluster.scheduler == "dask":
        from .dask import Dask

        if cluster.address is None:
            raise InputError("address: empty", hint="give the Dask scheduler's tcp://host:port or file")
        return Dask(cluster.address)
    from .psij import PsiJ

    return PsiJ(cluster.scheduler, jobs / ".records")
