"""Slurm by its programs: sbatch, squeue, sacct, scancel. No REST service and no accounting is needed."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.errors import InputError, MissingError, StorageError
from ..core.files import write_text
from .scheduler import Job, JobState, Phase
from .script import OUTPUT, TASKS, names_in, script, task_list
from .settings import Resources
from .slurm_states import Row, killed, seconds_of, state_of, status_of

PREFIX = "heliodor-"
_TIMEOUT = 120  # seconds; the programs themselves try again for about a minute
_LARGEST = 1000  # tasks of an array; Slurm's default MaxArraySize is 1001
_FIELDS = (
    "JobArrayID",
    "State",
    "exit_code",
    "TimeUsed",
    "RestartCnt",
    "NodeList",
    "Reason",
    "Name",
    "WorkDir",
)
# Settings of the user's shell that would change what the programs are asked, or what they print.
_SHELL = ("SLURM_", "SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_")
_BUSY = ("nodes are busy", "node not available", "partition is in an inactive", "partition is down")
_FULL = ("SubmitJob", "submit limit", "temporarily unable", "Slurm is busy")
_SILENT = (
    "Unable to contact",
    "Unable to establish",
    "timed out",
    "Zero Bytes",
    "Connection refused",
    "connection failure",
    "configuration file",
    "Invalid authentication",
    "Protocol authentication",
    "munge",
    "Incompatible versions",
    "standby mode",
)


@dataclass(frozen=True)
class _Seen:
    """A line of `squeue`."""

    id: str
    row: Row
    restarts: int
    name: str
    folder: Path  # of its array


class Slurm:
    """Slurm (20.11 or later), by its programs. A `Scheduler`.

    Jobs go in as arrays, a single one too. An array lives in `.arrays/<name>/` beside the folders of its
    jobs: the list of its tasks, written before `sbatch`, and named by the digest of that list. The array
    bears the same name and works in that folder. So Slurm alone tells which jobs are in flight, to
    whoever asks and can read the folder, also where the one who submitted was killed the moment after.

    What the cluster file leaves open is the site's default: `SBATCH_*` of the user's shell is not read.
    Only `sacct` knows jobs for longer than the site's MinJobAge (300 s by default); where it does not
    work, a job that nobody looked at for so long is `LOST`, and its folder decides.

    Args:
        restarts: how often a job that exits 75 goes back into the queue by itself; 0: jobs never do, not
            even when preempted.
        environment: what jobs see in addition to the environment of this process.
    """

    def __init__(self, *, restarts: int = 10, environment: Mapping[str, str] | None = None) -> None:
        self._restarts = restarts
        kept = {key: value for key, value in os.environ.items() if not key.startswith(_SHELL)}
        conf = {key: os.environ[key] for key in ("SLURM_CONF",) if key in os.environ}
        self._environment = kept | conf | {"LC_ALL": "C", "SLURM_BITSTR_LEN": "0"}
        self._jobs_environment = dict(environment or {})

    def check(self, resources: Resources) -> None:
        """Ask `sbatch --test-only`. Nodes that are all down now do not count: that passes."""
        done = self._run(["sbatch", "--test-only"], script(resources, restarts=self._restarts))
        if done.returncode == 0 or any(word in done.stderr for word in _BUSY):
            return
        self._refuse_silence(done)
        raise InputError(f"Slurm refuses these resources: {_said(done)}", hint="see the cluster file")

    def submit(self, jobs: Sequence[Job], resources: Resources) -> Mapping[str, str]:
        """Submit jobs as arrays of at most 1,000.

        Raises:
            InputError: Slurm refuses. StorageError: it does not answer, or takes no more jobs for now.
                After that, `find` tells which were taken nevertheless.
        """
        ordered = sorted(jobs, key=lambda job: job.name)
        ids: dict[str, str] = {}
        for first in range(0, len(ordered), _LARGEST):
            ids |= self._submit_array(ordered[first : first + _LARGEST], resources)
        return ids

    def _submit_array(self, jobs: Sequence[Job], resources: Resources) -> dict[str, str]:
        tasks = task_list(jobs, resources)
        name = PREFIX + hashlib.sha256(tasks.encode()).hexdigest()[:24]
        folder = jobs[0].folder.parent / ".arrays" / name
        write_text(folder / TASKS, tasks, "the list of jobs")
        own = [f"--array=0-{len(jobs) - 1}", f"--job-name={name}", f"--chdir={folder}"]
        # On the command line, where no directive of the user's overrides them.
        command = ["sbatch", "--parsable", *own, f"--output={OUTPUT}"]
        done = self._run(command, script(resources, restarts=self._restarts))
        if done.returncode:
            self._refuse_silence(done)
            if any(word in done.stderr for word in _FULL):
                raise StorageError(f"Slurm takes no more jobs for now: {_said(done)}")
            raise InputError(f"Slurm refuses the job: {_said(done)}", hint="see the cluster file")
        array = done.stdout.strip().partition(";")[0]  # "id;cluster" in a federation
        return {job.name: f"{array}_{index}" for index, job in enumerate(jobs)}

    def find(self, names: Sequence[str]) -> Mapping[str, str]:
        """Look through the queue for arrays of ours; one whose folder cannot be read is passed over."""
        wanted = set(names)
        lists: dict[Path, list[str]] = {}
        found: dict[str, str] = {}
        for seen in self._queue([]):
            if not seen.name.startswith(PREFIX) or seen.folder.name != seen.name:
                continue
            if seen.folder not in lists:
                lists[seen.folder] = names_in(_read(seen.folder / TASKS))
            index = seen.id.partition("_")[2]
            if index.isdigit() and int(index) < len(lists[seen.folder]):
                name = lists[seen.folder][int(index)]
                if name in wanted:
                    found[name] = seen.id
        return found

    def states(self, ids: Sequence[str]) -> Mapping[str, JobState]:
        """One `squeue` for all, and one `sacct` for those that have left the controller's memory."""
        if not ids:
            return {}
        arrays = sorted({job.partition("_")[0] for job in ids})
        rows = {seen.id: seen for seen in self._queue(["--states=all", f"--jobs={','.join(arrays)}"])}
        # Of tasks that were cancelled one by one before they started, only the array's own row is left.
        seen = {job: rows.get(job) or rows.get(job.partition("_")[0]) for job in ids}
        states = {job: _state(row) for job, row in seen.items() if row is not None}
        if gone := [job for job in ids if job not in states]:
            states |= {job: state_of(row) for job, row in self._accounted(gone).items()}
        lost = JobState(Phase.LOST, detail="Slurm does not know it any more")
        return {job: states.get(job, lost) for job in ids}

    def cancel(self, ids: Sequence[str]) -> None:
        """End jobs by scancel."""
        if ids:
            done = self._run(["scancel", "--quiet", *ids])
            self._refuse_silence(done)

    def _queue(self, options: Sequence[str]) -> list[_Seen]:
        form = ",".join(f"{name}:|" for name in _FIELDS[:-1]) + f",{_FIELDS[-1]}:"
        done = self._run(["squeue", "--noheader", "--array", f"--Format={form}", *options])
        if done.returncode:
            if "Invalid job id" in done.stderr:
                return []
            raise StorageError(f"Slurm does not tell its queue: {_said(done)}")
        return [_seen(line) for line in done.stdout.splitlines() if line.count("|") >= len(_FIELDS) - 1]

    def _accounted(self, ids: Sequence[str]) -> dict[str, Row]:
        """What the accounting knows, over all starts of a job; nothing where there is none."""
        form = "JobID,State,ExitCode,ElapsedRaw,NodeList"
        command = ["sacct", "-X", "-n", "-P", "-D", f"--format={form}", f"--jobs={','.join(ids)}"]
        with suppress(MissingError):
            done = self._run(command)
            rows: dict[str, Row] = {}
            for line in done.stdout.splitlines() if done.returncode == 0 else []:
                job, state, status, elapsed, node = line.split("|")[:5]
                before = rows[job].seconds if job in rows else 0.0
                rows[job] = Row(state, status_of(status), "", node, before + float(elapsed or 0))
            return rows
        return {}

    def _run(self, command: Sequence[str], text: str | None = None) -> subprocess.CompletedProcess[str]:
        environment = self._environment
        if text is not None:
            environment = environment | self._jobs_environment
        try:
            return subprocess.run(
                command,
                input=text,
                capture_output=True,
                text=True,
                errors="replace",
                env=environment,
                timeout=_TIMEOUT,
                check=False,
            )
        except FileNotFoundError as error:
            raise MissingError(
                f"no program {command[0]} here",
                hint="run where Slurm's programs are, such as a login node",
            ) from error
        except subprocess.TimeoutExpired as error:
            raise StorageError(f"Slurm's controller does not answer: {command[0]} hangs") from error

    def _refuse_silence(self, done: subprocess.CompletedProcess[str]) -> None:
        if done.returncode and any(word.lower() in done.stderr.lower() for word in _SILENT):
            raise StorageError(f"Slurm's controller does not answer: {_said(done)}")


def _said(done: subprocess.CompletedProcess[str]) -> str:
    """What a program complained of, in one line."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return "; ".join(lines) or f"exit code {done.returncode}"


def _seen(line: str) -> _Seen:
    job, state, status, used, restarts, node, reason, name, folder = line.split("|", len(_FIELDS) - 1)
    row = Row(state, int(status) if status.isdigit() else 0, reason, node, seconds_of(used))
    return _Seen(job, row, int(restarts) if restarts.isdigit() else 0, name, Path(folder.rstrip()))


def _state(seen: _Seen) -> JobState:
    """With what the files beside the list of the array add: earlier starts, and Slurm's last words."""
    row, words = seen.row, ""
    if seen.restarts:
        starts = _read(seen.folder / f"{seen.id}.seconds").split()
        row = replace(row, seconds=row.seconds + sum(float(text) for text in starts))
    if killed(row.status) is signal.SIGKILL:
        words = _read(seen.folder / f"{seen.id}.out")
    return state_of(row, words)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
