"""PBS and LSF by PSI/J: one job a folder."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any, Literal

from ..core.errors import InputError, MissingError, StorageError, missing_extra
from ..core.files import write_text
from .scheduler import End, Job, JobState, Phase, by_exit_code
from .script import shell_command
from .settings import Resources

if TYPE_CHECKING:
    from psij import JobStatus
    from psij.executors.batch.batch_scheduler_executor import BatchSchedulerExecutor

_PROGRAMS = {"pbs": "qsub", "lsf": "bsub", "slurm": "sbatch"}
_TIMEOUT = 120  # seconds


class PsiJ:
    """A batch system by PSI/J's scripts and parsers. A `Scheduler`.

    Proven on a real Slurm alone, which shares PSI/J's seam with the others; of PBS and LSF, only the
    script that is handed over has been looked at. What falls short of `Slurm`:

    - No arrays. What is in flight is known by a record that is written after the job was taken: who is
      killed in between leaves a job that is not found again, and a second one is submitted.
    - Nothing tells a job before its walltime but what the site itself sends.
    - How a job ended is its exit code alone: walltime, memory and lost nodes are all `LOST` where the
      code is missing, or a signal.
    - PBS is not asked for GPUs, LSF not for their type, and there a job with GPUs gets one core unless
      `directives` say more; these are written `-key value` or `--key=value`.
    - A word of the batch system that PSI/J does not know makes the whole answer unreadable: jobs go on
      and are waited for.

    Args:
        kind: slurm is there to try it. records: a folder for what is in flight, seen by all nodes.
    """

    def __init__(self, kind: Literal["pbs", "lsf", "slurm"], records: Path) -> None:
        self._kind, self._records = kind, records.absolute()
        try:
            import psij
            from psij.executors.batch.batch_scheduler_executor import BatchSchedulerExecutorConfig
        except ImportError as error:
            raise missing_extra("psij-python", "psij") from error
        # Its thread would give up on jobs when the queue does not answer: it is kept from asking.
        config = BatchSchedulerExecutorConfig(
            work_directory=self._records,
            queue_polling_interval=10**8,
            initial_queue_polling_delay=10**8,
            keep_files=True,
        )
        self._psij = psij
        executor: Any = psij.JobExecutor.get_instance(kind, config=config)
        self._executor: BatchSchedulerExecutor = executor

    def check(self, resources: Resources) -> None:
        """Whether the batch system is there and the values fit; the site is asked at submission only."""
        if which(_PROGRAMS[self._kind]) is None:
            raise MissingError(f"no program {_PROGRAMS[self._kind]} here", hint="run on a login node")
        if resources.gpu_type:
            raise InputError("gpu_type: PSI/J does not pass it on", hint="name it in directives")
        if resources.gpus and self._kind == "pbs":
            raise InputError(
                "gpus: PSI/J does not ask PBS for them", hint="name a partition of GPU nodes"
            )
        self._attributes(resources)

    def submit(self, jobs: Sequence[Job], resources: Resources) -> Mapping[str, str]:
        """Submit jobs one by one.

        Raises:
            InputError: the site refuses.
        """
        return {job.name: self._submit(job, resources) for job in jobs}

    def _submit(self, job: Job, resources: Resources) -> str:
        program, *arguments = shell_command(job, resources)
        memory = resources.memory_gb
        # Cores as processes, as for Slurm; GPUs are counted per process, so that there must be one then.
        processes = 1 if resources.gpus else resources.cpus
        spec = self._psij.JobSpec(
            executable=program,
            arguments=arguments,
            name=job.name,
            directory=job.folder,
            stdout_path=job.folder / "job.log",
            stderr_path=job.folder / "job.log",
            launcher="single",
            attributes=self._attributes(resources),
            resources=self._psij.ResourceSpecV1(
                node_count=resources.nodes,
                processes_per_node=processes,
                cpu_cores_per_process=resources.cpus // processes,
                gpu_cores_per_process=resources.gpus or None,
                memory=None if memory is None else int(memory * 1024**3),
            ),
        )
        asked = self._psij.Job(spec)
        try:
            self._executor.submit(asked)
        except (self._psij.SubmitException, self._psij.InvalidJobException) as error:
            raise InputError(f"{self._kind} refuses the job: {error}") from error
        except FileNotFoundError as error:
            raise MissingError(f"no program {_PROGRAMS[self._kind]} here") from error
        number = str(asked.native_id)
        write_text(self._records / job.name, number, "the record of a job")
        return number

    def _attributes(self, resources: Resources) -> Any:
        custom: dict[str, object] = {}
        for option in resources.directives:
            between = "=" if option.startswith("--") else " "
            key, _, value = option.lstrip("-").partition(between)
            if not option.startswith("-") or not key or "\n" in option:
                raise InputError(f"directives: got {option!r}", hint="give it as -key value")
            custom[f"{self._kind}.{key}"] = value
        if resources.qos:
            custom[f"{self._kind}.qos"] = resources.qos
        return self._psij.JobAttributes(
            duration=timedelta(seconds=resources.seconds),
            queue_name=resources.partition,
            account=resources.account,
            custom_attributes=custom or None,
        )

    def find(self, names: Sequence[str]) -> Mapping[str, str]:
        """By the records of what was submitted."""
        known = {name: number for name in names if (number := self._number(name))}
        states = self.states(list(known.values()))
        waits_or_runs = (Phase.QUEUED, Phase.RUNNING)
        return {name: number for name, number in known.items() if states[number].phase in waits_or_runs}

    def _number(self, name: str) -> str:
        try:
            return (self._records / name).read_text(encoding="utf-8")
        except OSError:
            return ""

    def states(self, ids: Sequence[str]) -> Mapping[str, JobState]:
        """One question for all; the exit codes of those that have left the queue from PSI/J's files."""
        if not ids:
            return {}
        code, said = self._run(self._executor.get_status_command(ids))
        try:
            found = self._executor.parse_status_output(code, said)
        except Exception as error:
            raise StorageError(f"{self._kind} does not tell its queue: {error!r}") from error
        return {number: self._state(number, found.get(number)) for number in ids}

    def _state(self, number: str, status: JobStatus | None) -> JobState:
        state = self._psij.JobState
        if status is not None and not status.state.final:
            running = status.state == state.ACTIVE
            return JobState(Phase.RUNNING if running else Phase.QUEUED, detail=status.message or "")
        if status is not None and status.state == state.CANCELED:
            return JobState(Phase.ENDED, End.CANCELLED, "cancelled")
        try:
            code = int((self._executor.work_directory / f"{number}.ec").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return JobState(Phase.LOST, detail="it has left the queue without an exit code")
        return JobState(Phase.ENDED, by_exit_code(code), f"exit code {code}")

    def cancel(self, ids: Sequence[str]) -> None:
        """End jobs one by one; those that have ended are left alone."""
        for number, state in self.states(ids).items():
            if state.phase in (Phase.QUEUED, Phase.RUNNING):
                self._run(self._executor.get_cancel_command(number))

    def _run(self, command: Sequence[str]) -> tuple[int, str]:
        try:
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=os.environ | {"LC_ALL": "C"},
                text=True,
                timeout=_TIMEOUT,
                check=False,
            )
        except FileNotFoundError as error:
            raise MissingError(f"no program {command[0]} here") from error
        except subprocess.TimeoutExpired as error:
            raise StorageError(f"{command[0]} does not answer") from error
        return done.returncode, done.stdout
