"""The text of a Slurm batch script: what is asked for, and the loop that hands signals on."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from math import ceil

from ..core.errors import InputError
from .scheduler import Job
from .settings import Resources

TASKS = "tasks"  # one line a task: name, folder, command, quoted for the shell
OUTPUT = "%A_%a.out"  # what a task says before it is in its folder, and Slurm's own last words
_NOTICE = 120  # seconds before the walltime at which a job is told
_WORD = re.compile(r"[\w.,:@+=/-]+")
_LINE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]+")

# Lines of the list are written by `task_list`, so that `eval` meets only what was quoted there. The
# positional parameters are emptied before the site's lines: a sourced file would take them for its own.
# $SLURM_JOB_ID of an array's last task is the whole array's, so a task goes by index.
_PROGRAM = """\
command=("$@")
set --
program=
trap '[ -z "$program" ] || kill -s USR1 "$program" 2>/dev/null' USR1
trap '[ -z "$program" ] || kill -s TERM "$program" 2>/dev/null' TERM
{setup}
{container}"${{command[@]}}" &
program=$!
while wait "$program"; code=$?; kill -0 "$program" 2>/dev/null; do :; done  # a trap ends `wait` early
wait "$program" 2>/dev/null; last=$?
[ $last = 127 ] || code=$last
trap - USR1 TERM
"""
_BODY = """\
line=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {tasks}) && eval "set -- $line" && [ $# -gt 2 ] || exit 74
job=${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID
spent=$PWD/$job.seconds
cd -- "$2" || exit 74
exec >>job.log 2>&1
start=${{SLURM_RESTART_COUNT:-0}}
echo "-- $(date -u +%FT%TZ) $1 is job $job, start $start, on $(hostname)"
shift 2
{program}if [ $code = 75 ] && [ "$start" -lt {restarts} ] && scontrol requeue "$job"; then
    echo $SECONDS >>"$spent"
    exec sleep 60  # which Slurm ends
fi
exit $code
"""


def _checked(field: str, value: str, pattern: re.Pattern[str], right: str) -> str:
    if pattern.fullmatch(value) is None:
        raise InputError(f"{field}: got {value!r}", hint=right)
    return value


def directives(resources: Resources, *, requeue: bool = True) -> list[str]:
    """The options of `sbatch` for these resources.

    Slurm counts walltimes in whole minutes, so they are rounded up. Cores are asked for as tasks, which
    is what `srun` and `mpirun` start by; one program that uses threads gets all of them as well.

    Raises:
        InputError: a value that would break out of its line.
    """
    word = "letters, digits and .,:@+=/- only"
    asked = {"partition": resources.partition, "account": resources.account, "qos": resources.qos}
    lines = [f"--{name}={_checked(name, value, _WORD, word)}" for name, value in asked.items() if value]
    lines += [
        f"--time={ceil(resources.seconds / 60)}",
        f"--nodes={resources.nodes}",
        f"--ntasks-per-node={resources.cpus}",
    ]
    if resources.memory_gb is not None:
        lines.append(f"--mem={ceil(resources.memory_gb * 1024)}M")
    if resources.gpus:
        kind = _checked("gpu_type", resources.gpu_type, _WORD, word) + ":" if resources.gpu_type else ""
        lines.append(f"--gres=gpu:{kind}{resources.gpus}")
    lines.append(f"--signal=B:USR1@{min(_NOTICE, resources.seconds // 4)}")
    lines += ["--open-mode=append", "--requeue" if requeue else "--no-requeue"]
    for option in resources.directives:
        _checked("directives", option, _LINE, "one option a line")
        if not option.startswith("-"):
            raise InputError(f"directives: got {option!r}", hint="give it as sbatch does: --name=value")
        lines.append(option)
    return lines


def script(resources: Resources, *, restarts: int = 10) -> str:
    """A batch script for an array whose folder holds the list `tasks`.

    A task's output goes to `job.log` in its own folder. SIGUSR1 (before the walltime) and SIGTERM are
    handed to the program. Where it exits 75, stopped with work left, the job goes back into the queue
    (Slurm starts it again two minutes later at the earliest), and what it used so far is kept in
    `<id>.seconds`; after `restarts` starts, or where the site forbids it, 75 is the job's exit code.
    A program that runs on until the walltime is killed by Slurm.

    Args:
        restarts: how often a job goes back into the queue; 0 also keeps Slurm from doing so by itself.

    Raises:
        InputError: a value that would break out of its line.
    """
    options = directives(resources, requeue=restarts > 0)
    body = _BODY.format(tasks=TASKS, program=_program(resources), restarts=restarts)
    return "\n".join(["#!/bin/bash", *(f"#SBATCH {option}" for option in options), body])


def _program(resources: Resources) -> str:
    container = resources.container or ""
    if container:
        _checked("container", container, _LINE, "one line: what to put before the command")
    return _PROGRAM.format(
        setup="\n".join(resources.setup), container=f"{container} " if container else ""
    )


def shell_command(job: Job, resources: Resources) -> list[str]:
    """A job's command with setup and container, for batch systems that start one program themselves.

    Raises:
        InputError: a container of several lines.
    """
    python = python_of(resources)
    command = [python if word == "{python}" else word for word in job.command]
    return ["/bin/bash", "-c", _program(resources) + "exit $code", job.name, *command]


def python_of(resources: Resources) -> str:
    """The node's Python: what the cluster file says, a container's own, else the one that runs now."""
    return resources.python or ("python3" if resources.container else sys.executable)


def task_list(jobs: Sequence[Job], resources: Resources) -> str:
    """The list of an array: line i is task i.

    Raises:
        InputError: a folder or an argument with a line break.
    """
    python = python_of(resources)
    lines = []
    for job in jobs:
        words = [job.name, str(job.folder), *job.command]
        line = shlex.join([python if word == "{python}" else word for word in words])
        if "\n" in line:
            raise InputError(f"a line break in the folder or command of a job: {line!r}")
        lines.append(line + "\n")
    return "".join(lines)


def names_in(tasks: str) -> list[str]:
    """The names of an array's tasks, by index."""
    return [shlex.split(line)[0] for line in tasks.splitlines()]
