"""DFT by a user's own jobflow-remote: their project and runner, our Flow, our look at how far it is.

A Flow is submitted once: its uuid is in the calculation's folder, and the project's database knows it.
When it has ended, its jobs' documents come home from the project's job store, and make the same result
as if the jobs had run in the folder. What failed over there is told, and not kept: after `jf job rerun`
the next look finds it running again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ..core.errors import InputError, StorageError, missing_extra
from ..core.lock import BusyError, working_in
from ..core.records import DftResult, DftTicket, Failure, Reason
from .calculation import STORE, Calculation, flow_result, job_store
from .recipe import Parsed, Unfinished

if TYPE_CHECKING:
    from jobflow.core.flow import Flow
    from jobflow.core.job import Job
    from jobflow.core.store import JobStore
    from jobflow_remote.config.base import ExecutionConfig, Project
    from jobflow_remote.jobs.data import JobInfo
    from jobflow_remote.jobs.jobcontroller import JobController

logger = logging.getLogger("heliodor.engines")

_LONGEST = 600  # characters of an error


class JobflowProject:
    """Has calculations run by a project of jobflow-remote; see `heliodor.engines.dft_engine.Runner`.

    `dft.time_limit` does not hold there: the worker's resources do.

    Args:
        project: its name; None: jobflow-remote's default.
        worker: as in the project; None: its first.
        exec_config, resources: as `jobflow_remote.submit_flow` takes them; None: the worker's.
        attempts: how often a calculation is run if its documents say that it can be mended.
        poll: seconds between looks.

    Raises:
        MissingError: jobflow-remote is not installed.
        InputError: it has no such project, worker or exec_config.
    """

    def __init__(
        self,
        project: str | None = None,
        worker: str | None = None,
        exec_config: str | Mapping[str, Any] | None = None,
        resources: Mapping[str, Any] | None = None,
        *,
        attempts: int = 3,
        poll: float = 10.0,
    ) -> None:
        self._project = _project(project, worker, exec_config)
        self._worker, self._exec_config, self._resources = worker, exec_config, resources
        self._attempts, self._poll = attempts, poll
        self._lock = threading.Lock()
        self._silent = False  # the database does not answer, and that was said

    def __call__(self, ticket: DftTicket, stop: threading.Event) -> DftResult | Failure | None:
        """Bring a calculation to its end; None where `stop` was set before: its jobs go on.

        Raises:
            InputError: the project cannot take the Flow; or the folder was changed.
            StorageError: the database refuses; one that is not there is waited for.
        """
        ended = None
        while not stop.is_set() and (ended := self._patient_look(Path(ticket.path))) is None:
            stop.wait(self._poll)
        return ended

    def _patient_look(self, folder: Path) -> DftResult | Failure | None:
        """As `_look`; None too where the database does not answer, or another process is looking."""
        from pymongo.errors import ConnectionFailure, PyMongoError

        try:
            with working_in(folder):
                ended = self._look(Calculation(folder))
        except BusyError:
            return None
        except ConnectionFailure as error:
            self._heard(False, f"does not answer; waiting for it: {' '.join(str(error).split())[:200]}")
            return None
        except PyMongoError as error:
            raise StorageError(f"the database of jobflow-remote's project refused: {error}") from error
        self._heard(True, "answers again")
        return ended

    def _heard(self, answers: bool, words: str) -> None:
        with self._lock:
            if self._silent is answers:
                logger.warning(
                    "the database of jobflow-remote's project %s %s", self._project.name, words
                )
            self._silent = not answers

    def _look(self, calculation: Calculation) -> DftResult | Failure | None:
        """Submit the Flow of the attempt if the project does not know it; see what it has come to."""
        if (known := calculation.ended) is not None:
            return known
        flow = calculation.flow()
        jobs = self._jobs(flow.uuid)
        if jobs is None:
            self._submit(flow)
            return None
        if not self._has_ended(flow.uuid, jobs):
            return None
        found = flow_result(self._documents(calculation, flow, jobs))
        seconds = sum(job.run_time or 0.0 for job in jobs.values())
        if isinstance(found, Parsed):
            calculation.spend(seconds)
            return calculation.finish(found)
        if calculation.mend(found, self._attempts):
            calculation.spend(seconds)
            return None
        return calculation.failure(found)

    # --- the project -----------------------------------------------------------------------------

    @cached_property
    def _opened(self) -> JobController:
        from jobflow_remote import JobController

        return JobController.from_project(self._project)

    @property
    def _controller(self) -> JobController:
        with self._lock:
            return self._opened

    def _jobs(self, flow: str) -> dict[str, JobInfo] | None:
        """The Flow's jobs by uuid, as they were run last; None where the project does not know it."""
        jobs = self._controller.get_jobs_info(flow_ids=flow, sort=[("index", 1)])
        if not jobs and not self._controller.count_flows(flow_ids=flow):
            return None
        return {job.uuid: job for job in jobs}

    def _has_ended(self, flow: str, jobs: Mapping[str, JobInfo]) -> bool:
        """Whether nothing happens to it any more unless a person does something.

        A REMOTE_ERROR comes after all of jobflow-remote's own retries. The folder is held while a Flow
        is submitted, so that one without jobs is what a killed submission left.
        """
        from jobflow_remote.jobs.state import FlowState, JobState

        if not jobs or any(job.state is JobState.REMOTE_ERROR for job in jobs.values()):
            return True
        [info] = self._controller.get_flows_info(flow_ids=flow)
        return info.state in (FlowState.COMPLETED, FlowState.FAILED, FlowState.STOPPED)

    def _submit(self, flow: Flow) -> None:
        from jobflow_remote import submit_flow
        from jobflow_remote.config.base import ConfigError
        from pymongo.errors import DuplicateKeyError

        try:
            submit_flow(
                flow,
                worker=self._worker,
                project=self._project.name,
                exec_config=_exec_config(self._exec_config),
                resources=dict(self._resources) if self._resources else None,
            )
        except (ConfigError, ValueError) as error:
            if isinstance(error.__cause__, DuplicateKeyError):
                return  # by another process, on a disk without locks
            raise InputError(f"jobflow-remote does not take the Flow: {error}") from error
        logger.info("submitted %s to jobflow-remote's project %s", flow.name, self._project.name)

    # --- what came of it -------------------------------------------------------------------------

    def _documents(
        self, calculation: Calculation, flow: Flow, jobs: Mapping[str, JobInfo]
    ) -> Iterator[Parsed | Unfinished]:
        """What each job came to, in the Flow's order."""
        with job_store(calculation.folder / STORE) as home:
            for job, _ in flow.iterflow():  # type: ignore[no-untyped-call]
                yield self._document(calculation, job, jobs.get(job.uuid), home)

    def _document(
        self, calculation: Calculation, job: Job, info: JobInfo | None, home: JobStore
    ) -> Parsed | Unfinished:
        from jobflow_remote.jobs.state import JobState

        if info is None:
            detail = f"{job.name} is not in the project's database; jf flow delete, and run again"
            return Unfinished(Reason.DFT_FAILED, detail)
        if info.state is not JobState.COMPLETED:
            return _unfinished(info)
        store = self._controller.jobstore
        found = store.query_one({"uuid": job.uuid}, sort={"index": -1}, load=True)
        if found is None:
            detail = f"{job.name} ({info.db_id}) has no document in the project's job store"
            return Unfinished(Reason.DFT_FAILED, detail)
        home.update({name: value for name, value in found.items() if name != "_id"})
        return calculation.read(job.uuid, home)


def _project(
    name: str | None, worker: str | None, exec_config: str | Mapping[str, Any] | None
) -> Project:
    """The project, and whether it has what it is asked for."""
    try:
        from jobflow_remote import ConfigManager
        from jobflow_remote.config.base import ConfigError
    except ImportError as error:
        raise missing_extra("jobflow-remote", "jobflow-remote") from error
    try:
        project = ConfigManager().get_project(name)
    except ConfigError as error:
        raise InputError(f"jobflow_remote.project: {error}", hint="jf project list") from error
    _known("worker", worker, project.workers)
    if not project.workers:
        raise InputError(f"jobflow_remote.project: {project.name} has no workers")
    if isinstance(exec_config, str):
        _known("exec_config", exec_config, project.exec_config)
    try:
        _exec_config(exec_config)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, ("exec_config", *first["loc"])))
        raise InputError(f"jobflow_remote.{field}: got {first['input']!r}; {first['msg']}") from error
    return project


def _known(field: str, name: str | None, known: Mapping[str, Any]) -> None:
    if name is not None and name not in known:
        there = ", ".join(known) or "none"
        raise InputError(f"jobflow_remote.{field}: got '{name}'; the project has {there}")


def _exec_config(given: str | Mapping[str, Any] | None) -> str | ExecutionConfig | None:
    from jobflow_remote.config.base import ExecutionConfig

    return ExecutionConfig(**given) if isinstance(given, Mapping) else given


def _unfinished(job: JobInfo) -> Unfinished:
    """What jobflow-remote says of a job that has no document."""
    said = job.error or job.remote.error or "no error is told"
    raised = "Traceback" in said
    detail = f"{job.name} is {job.state.value} (jf job info {job.db_id}): {_last(said.splitlines())}"
    return Unfinished(Reason.DFT_FAILED if raised else Reason.DFT_KILLED, detail)


def _last(lines: Sequence[str]) -> str:
    """What stands after the frames of a traceback, as one line."""
    frames = [number for number, line in enumerate(lines) if line.startswith("  ")]
    words = lines[frames[-1] + 1 :] if frames else lines
    return " ".join(" ".join(words or lines).split())[:_LONGEST]
