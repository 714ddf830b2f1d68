"""The stages of a campaign that a cluster file names, put in the place of those that run here."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from pydantic import BaseModel

from ..cluster.choose import scheduler_of
from ..cluster.collect import Program
from ..cluster.desk import Desk, Posting
from ..cluster.job_folder import job_name, last_words
from ..cluster.remote import GENERATE, RELAX, RemoteGenerator, RemoteRelaxer
from ..cluster.scheduler import Job
from ..cluster.settings import Cluster, load_cluster
from ..core.campaign import Campaign
from ..core.choices.dft import DftChoice, DftRun
from ..core.errors import InputError
from ..core.protocols import Generator, Relaxer
from ..core.records import DftResult, DftTicket, Failure, Reason
from ..core.settings import Settings

if TYPE_CHECKING:
    from ..engines.dft_engine import Runner

log = logging.getLogger("heliodor.flows")

_PYTHON = ("{python}", "-P", "-m")


class OnCluster:
    """A campaign's desk, and the stages that hand in their jobs there.

    Args:
        folder: the campaign's. Where DFT runs as jobs, all nodes must see it.
    """

    def __init__(self, cluster: Cluster, campaign: Campaign, folder: Path) -> None:
        self.cluster = cluster
        self._root = (cluster.jobs / campaign.name if cluster.jobs else folder / "jobs").absolute()
        self.scheduler = scheduler_of(cluster, self._root)
        self.desk = Desk(self.scheduler, cluster)
        self._program = Program((*_PYTHON, "heliodor.flows.job"), Path.cwd())

    def check(self) -> None:
        """Ask the batch system whether it would take the jobs of each stage.

        Raises:
            InputError: it would not. MissingError: it is not there. StorageError: it does not answer.
        """
        for stage, resources in self.cluster.stages.items():
            try:
                self.scheduler.check(resources)
            except InputError as error:
                raise InputError(f"cluster file, {stage}: {error.message}", error.hint) from error

    def generator(self, local: Generator, choice: BaseModel) -> Generator:
        """The generator whose items jobs make, where the cluster file says so."""
        if self.cluster.generate is None:
            return local
        place = self._root / GENERATE
        return RemoteGenerator(local, choice, self.desk, self.cluster.generate, place, self._program)

    def relaxer(self, local: Relaxer, choice: BaseModel) -> Relaxer:
        """The relaxer whose crystals jobs relax, where the cluster file says so."""
        if self.cluster.relax is None:
            return local
        place = self._root / RELAX
        return RemoteRelaxer(local, choice, self.desk, self.cluster.relax, place, self._program)

    def calculations(self, choice: DftChoice) -> Runner | None:
        """Who runs the DFT calculations; None where the cluster file does not say, or nobody is to.

        Raises:
            InputError, MissingError: jobflow-remote has no such project, or is not there.
        """
        if not self.cluster.dft_elsewhere or not isinstance(choice, DftRun) or not choice.run:
            return None
        if (theirs := self.cluster.jobflow_remote) is not None:
            from ..engines.jobflow_project import JobflowProject

            return JobflowProject(
                theirs.project,
                theirs.worker,
                theirs.exec_config,
                theirs.resources,
                attempts=choice.attempts,
                poll=self.cluster.poll,
            )
        return partial(self._calculate, choice.attempts)

    def _calculate(self, attempts: int, ticket: DftTicket, stop: Event) -> DftResult | Failure | None:
        """Bring a DFT calculation to its end as a job; None where `stop` was set before.

        A job that reaches its walltime goes on in another one as long as it has ended a job of the Flow
        since. `dft.time_limit` does not hold here: walltime and `resubmit` do.

        Args:
            attempts: how often it is run if what went wrong can be mended.
        """
        from ..engines.dft_results import read_result

        resources = self.cluster.dft
        if resources is None:
            raise ValueError("the cluster file has no dft")
        folder = Path(ticket.path).resolve()

        def result() -> DftResult | Failure | None:
            return read_result(folder, ticket.input_digest)

        if (known := result()) is not None:
            return known
        command = (*_PYTHON, "heliodor.engines.calculate", str(folder), "--attempts", str(attempts))
        job = Job(job_name(folder), folder, command)
        handle = self.desk.submit(
            Posting(job, resources, lambda: result() is not None, partial(_progress, folder))
        )
        while not stop.wait(min(1.0, self.cluster.poll)):
            if (ended := handle.ended) is not None:
                text = f"its job ended: {ended.end.value}, {ended.detail}; {last_words(folder)}"
                return result() or Failure(ticket.key, Reason.DFT_KILLED, text)
        return None

    def close(self) -> None:
        """Leave the jobs to themselves, and say how many there are."""
        if ids := self.desk.close():
            log.warning(
                "%d jobs stay in the queue; running the campaign again collects them. To end them: %s",
                len(ids),
                _how_to_cancel(self.cluster, ids),
            )


def on_cluster(campaign: Campaign, folder: Path, settings: Settings) -> OnCluster | None:
    """Where the stages of a campaign run other than here; None where no cluster file is named.

    Raises:
        InputError: the cluster file is not there or not right.
    """
    if settings.cluster is None:
        return None
    return OnCluster(load_cluster(settings.cluster), campaign, folder)


def _progress(folder: Path) -> object:
    """The jobs of the Flow that have ended, and what was mended."""
    try:
        found = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
        return found["done"], found["mends"]
    except (OSError, ValueError, KeyError):
        return None


def _how_to_cancel(cluster: Cluster, ids: list[str]) -> str:
    word = {"slurm": "scancel", "pbs": "qdel", "lsf": "bkill"}.get(cluster.scheduler, "cancel")
    return f"{word} {' '.join(ids)}"
