"""Whether the batch system would take a campaign's jobs, and whether job stores work on this disk."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from ..cluster.choose import scheduler_of
from ..cluster.settings import Resources, load_cluster
from ..core.errors import HeliodorError
from ..core.settings import Settings
from .finding import Check

_TIMEOUT = 20.0  # seconds; a controller that is away makes Slurm's programs wait


def cluster_checks(settings: Settings) -> Iterator[Check]:
    """The stages of the cluster file that is set; without one, whether there is a Slurm."""
    if settings.cluster is None:
        yield from _slurm()
        return
    name = f"cluster file {settings.cluster}"
    try:
        cluster = load_cluster(settings.cluster)
        scheduler = scheduler_of(cluster, cluster.jobs or Path("jobs"))
    except HeliodorError as error:
        yield Check(name, "fail", error.message, error.hint or "mend the file")
        return
    for stage, resources in cluster.stages.items():
        try:
            scheduler.check(resources)
        except HeliodorError as error:
            yield Check(f"{cluster.scheduler}, {stage}", "fail", error.message, error.hint or "")
        else:
            yield Check(f"{cluster.scheduler}, {stage}", "ok", _asked(resources))
    if not cluster.stages and cluster.jobflow_remote is None:
        yield Check(name, "warn", "names no stage", "give it generate, relax or dft")


def _asked(resources: Resources) -> str:
    given = resources.model_dump(exclude_defaults=True, exclude={"setup", "directives"})
    return "would be taken: " + (
        ", ".join(f"{k} {v}" for k, v in given.items()) or "the site's defaults"
    )


def _slurm() -> Iterator[Check]:
    if shutil.which("sinfo") is None:
        return
    command = ["sinfo", "--noheader", "--format=%P %D nodes, %G, up to %l"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        yield Check("Slurm", "warn", "its controller does not answer", "ask the site")
        return
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["sinfo failed"])[-1]
        yield Check("Slurm", "warn", said, "ask the site, or ignore it where no jobs are to run")
    else:
        yield Check("Slurm", "ok", "; ".join(done.stdout.split("\n")[:3]).strip("; "))


def job_store_check() -> Check:
    """SQLite on the disk of this folder, where calculations keep their job stores; it needs locks."""
    name = "job store here"
    try:
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".heliodor-doctor-") as scratch:
            path = Path(scratch) / "jobs.sqlite"
            with closing(sqlite3.connect(path, timeout=1)) as one, one:
                one.execute("create table documents (id)")
                one.execute("insert into documents values (1)")
                with closing(sqlite3.connect(path, timeout=0)) as other:
                    try:
                        other.execute("insert into documents values (2)")
                    except sqlite3.OperationalError:
                        return Check(name, "ok", "SQLite works, with locks")
        return Check(name, "warn", "this disk ignores locks", "keep campaigns on another one")
    except (OSError, sqlite3.Error) as error:
        return Check(name, "warn", f"SQLite does not work here: {error}", "work on another disk")
