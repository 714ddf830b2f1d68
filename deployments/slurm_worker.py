"""A Prefect worker whose flow runs are Slurm jobs, by `sbatch`: no REST service is needed.

    prefect work-pool create cluster --type heliodor-slurm
    prefect worker start --pool cluster

The worker runs where Slurm's programs are, such as a login node; the nodes must reach the Prefect
server. A job outlives its worker: the next worker of the pool finds it by its name and watches it on.
Use one pool per cluster. The environment of a job holds the server's address and key; Slurm keeps it
with the job.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import httpx
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import StateType
from prefect.exceptions import InfrastructureNotAvailable, InfrastructureNotFound, ObjectNotFound
from prefect.workers.base import BaseWorker, BaseWorkerResult

from ..cluster.scheduler import End, Job, JobState, Phase
from ..cluster.slurm import Slurm
from ..core.errors import HeliodorError, StorageError
from .slurm_pool import SlurmJobConfiguration, SlurmVariables, job_name

if TYPE_CHECKING:
    from uuid import UUID

    from anyio.abc import TaskStatus
    from prefect.client.schemas.objects import FlowRun

_OPEN = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
_GRACE = 60  # seconds for a cancelled flow to end by itself
_PATIENCE = 600  # seconds for which a worker may be between taking a flow run and submitting its job


class SlurmWorkerResult(BaseWorkerResult):
    """How a job ended: status code 0 or 1; identifier: its id."""


class SlurmWorker(BaseWorker[SlurmJobConfiguration, SlurmVariables, SlurmWorkerResult]):
    """Submits each flow run by `sbatch`, watches it, cancels it, and says why it died."""

    type = "heliodor-slurm"
    job_configuration = SlurmJobConfiguration
    job_configuration_variables = SlurmVariables
    _description = "Run each flow run as a Slurm job, by sbatch."
    _display_name = "Slurm (Heliodor)"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._followed: set[UUID] = set()
        self._why: dict[UUID, str] = {}

    async def run(
        self,
        flow_run: FlowRun,
        configuration: SlurmJobConfiguration,
        task_status: TaskStatus[int] | None = None,
    ) -> SlurmWorkerResult:
        """Submit the job, or take up the one that is there already, and watch it to its end."""
        job = configuration.job(flow_run.id)
        self._followed.add(flow_run.id)
        try:
            number = await anyio.to_thread.run_sync(_submitted, configuration, job)
            self.get_flow_run_logger(flow_run).info(
                "Slurm job %s; its output is in %s", number, job.folder / "job.log"
            )
            if task_status is not None:
                task_status.started(number)  # type: ignore[arg-type]  # Prefect stores it as text
            state = await self._ended(flow_run, number, configuration)
            died = await self._explain(flow_run.id, number, state, job)
        finally:
            self._followed.discard(flow_run.id)
        return SlurmWorkerResult(identifier=number, status_code=int(died))

    async def sync_with_backend(self) -> None:
        """As every worker does, and take up jobs that nobody watches."""
        await super().sync_with_backend()
        if (
            self._client is not None
            and self._work_pool is not None
            and self._runs_task_group is not None
        ):
            await self._adopt()

    async def kill_infrastructure(
        self,
        infrastructure_pid: str,
        configuration: SlurmJobConfiguration,
        grace_seconds: int = 30,  # noqa: ARG002 the site's KillWait decides
    ) -> None:
        """End a job by scancel."""
        slurm = configuration.slurm()
        try:
            states = await anyio.to_thread.run_sync(slurm.states, [infrastructure_pid])
            if states[infrastructure_pid].phase in (Phase.ENDED, Phase.LOST):
                raise InfrastructureNotFound(f"Slurm job {infrastructure_pid} has ended")
            await anyio.to_thread.run_sync(slurm.cancel, [infrastructure_pid])
        except HeliodorError as error:
            raise InfrastructureNotAvailable(str(error)) from error

    async def _ended(
        self, flow_run: FlowRun, number: str, configuration: SlurmJobConfiguration
    ) -> JobState:
        """Wait for the end of a job; a controller or a server that does not answer is waited for."""
        log, slurm = self.get_flow_run_logger(flow_run), configuration.slurm()
        said, lost = "", False
        while True:
            try:
                state = await anyio.to_thread.run_sync(slurm.states, [number], abandon_on_cancel=True)
                found = state[number]
                if found.phase is Phase.ENDED or (found.phase is Phase.LOST and lost):
                    return found
                lost, words = found.phase is Phase.LOST, f"{found.phase}: {found.detail}"
                if await self._is_to_stop(flow_run.id):
                    await anyio.to_thread.run_sync(slurm.cancel, [number])
            except (StorageError, httpx.HTTPError) as error:
                words = f"is watched later: {error}"
            if words != said:
                log.info("Slurm job %s %s", number, words)
                said = words
            await anyio.sleep(configuration.poll)

    async def _is_to_stop(self, flow_run_id: UUID) -> bool:
        """Whether a cancelled run's job is ours to end: one that has started ends itself, if it can."""
        try:
            flow_run = await self.client.read_flow_run(flow_run_id)
        except ObjectNotFound:
            return False
        if flow_run.state is None or not flow_run.state.is_cancelling():
            return False
        return flow_run.start_time is None or _age(flow_run.state.timestamp) > _GRACE

    async def _explain(self, flow_run_id: UUID, number: str, state: JobState, job: Job) -> bool:
        """Say in the flow run's log how its job ended; whether it died with the run unfinished."""
        flow_run = await self.client.read_flow_run(flow_run_id)
        log = self.get_flow_run_logger(flow_run)
        words = f"Slurm job {number} ended: {state.detail}"
        log.info("%s, after %.0f s", words, state.seconds)
        kind = flow_run.state.type if flow_run.state is not None else None
        if kind not in _OPEN:
            return False
        if kind is StateType.CANCELLING:
            await self._mark_flow_run_as_cancelled(flow_run, {"message": words})
            return False
        if state.end is End.COMPLETED:  # paused, or to be started again
            return False
        log.error("%s. The end of its output:\n%s", words, _last_lines(job))
        self._why[flow_run_id] = words
        return True

    async def _propose_crashed_state(self, flow_run: FlowRun, message: str, client: Any = None) -> None:
        """With our own words, where there are any: Prefect only knows the status code."""
        message = self._why.pop(flow_run.id, message)
        await super()._propose_crashed_state(flow_run, message, client)

    async def _adopt(self) -> None:
        """Watch the jobs of open flow runs of this pool that an earlier worker has submitted."""
        runs = await self.client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_OPEN))
            ),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[self._work_pool_name])),
        )
        left = [r for r in runs if r.id not in self._followed | self._submitting_flow_run_ids]
        if not left:
            return
        try:
            found = await anyio.to_thread.run_sync(Slurm().find, [job_name(run.id) for run in left])
        except HeliodorError as error:
            self._logger.warning("Cannot look for jobs of an earlier worker: %s", error)
            return
        assert self._runs_task_group is not None
        for run in left:
            number = found.get(job_name(run.id)) or run.infrastructure_pid
            if number is not None:
                self._followed.add(run.id)
                self._runs_task_group.start_soon(self._take_up, run, number)
            elif run.state is not None and _age(run.state.timestamp) > _PATIENCE:
                await self._propose_crashed_state(run, "its worker was gone before it submitted the job")

    async def _take_up(self, flow_run: FlowRun, number: str) -> None:
        """Watch a job that an earlier worker has submitted."""
        try:
            configuration = await self.job_configuration.resolve_for_flow_run(
                flow_run,
                client=self.client,
                work_pool=self.work_pool,
                worker_name=self.name,
                worker_id=self.backend_id,
            )
            self.get_flow_run_logger(flow_run).info("Slurm job %s is watched again", number)
            state = await self._ended(flow_run, number, configuration)
            if await self._explain(flow_run.id, number, state, configuration.job(flow_run.id)):
                await self._propose_crashed_state(flow_run, "the job died")
        except ObjectNotFound:
            self._logger.info("Flow run %s or its deployment is gone", flow_run.id)
        except Exception:
            self._logger.exception("Lost sight of Slurm job %s", number)
        finally:
            self._followed.discard(flow_run.id)


def _submitted(configuration: SlurmJobConfiguration, job: Job) -> str:
    slurm, resources = configuration.slurm(), configuration.resources()
    found = slurm.find([job.name])
    if job.name in found:
        return found[job.name]
    slurm.check(resources)
    job.folder.mkdir(parents=True, exist_ok=True)
    return slurm.submit([job], resources)[job.name]


def _last_lines(job: Job, count: int = 10) -> str:
    try:
        lines = (job.folder / "job.log").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return f"(none: {error})"
    return "\n".join(lines[-count:])


def _age(moment: datetime) -> float:
    return (datetime.now(UTC) - moment).total_seconds()
