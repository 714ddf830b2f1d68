from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from heliodor.cluster.scheduler import Job
from heliodor.cluster.script import directives, names_in, script, task_list
from heliodor.cluster.settings import Resources
from heliodor.core.errors import InputError


def test_resources_become_the_options_of_sbatch():
    resources = Resources(
        partition="gpu",
        account="mat.42",
        qos="long",
        time="1-02:30:01",
        nodes=2,
        cpus=8,
        memory_gb=1.5,
        gpus=4,
        gpu_type="h200",
        directives=("--exclusive", "--constraint='ib&v4'"),
    )
    assert directives(resources) == [
        "--partition=gpu",
        "--account=mat.42",
        "--qos=long",
        "--time=1591",  # minutes: 1 d 2 h 30 min, and a second begins the next
        "--nodes=2",
        "--ntasks-per-node=8",
        "--mem=1536M",
        "--gres=gpu:h200:4",
        "--signal=B:USR1@120",
        "--open-mode=append",
        "--requeue",
        "--exclusive",
        "--constraint='ib&v4'",
    ]


def test_what_is_left_open_is_not_asked_for():
    asked = " ".join(directives(Resources(gpus=1)))
    assert "--gres=gpu:1" in asked
    for word in ("partition", "account", "qos", "mem"):
        assert word not in asked


def test_short_walltimes_are_told_later():
    assert "--signal=B:USR1@15" in directives(Resources(time="0:01"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("partition", "gpu\n#SBATCH --account=other"),
        ("account", "a b"),
        ("qos", "$(id)"),
        ("gpu_type", "h200;reboot"),
        ("directives", ("--exclusive\ntouch /tmp/x",)),
        ("directives", ("exclusive",)),
        ("container", "apptainer exec h.sif\nrm -rf ~;"),
    ],
)
def test_nothing_breaks_out_of_its_line(field, value):
    with pytest.raises(InputError, match=field):
        script(Resources(gpus=1, **{field: value}))


def test_the_programs_line_follows_setup_and_container():
    text = script(Resources(setup=("module load cuda", "export A=1"), container="apptainer exec h.sif"))
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash"
    at = lines.index("module load cuda")
    assert lines[at + 1 : at + 3] == ["export A=1", 'apptainer exec h.sif "${command[@]}" &']


def test_jobs_that_must_not_start_again_say_so():
    text = script(Resources(), restarts=0)
    assert "#SBATCH --no-requeue" in text
    assert '[ "$start" -lt 0 ]' in text


def test_a_list_holds_names_folders_and_commands():
    jobs = [
        Job("heliodor-a", Path("/x/it's $here"), ("{python}", "-c", "print('a b')")),
        Job("heliodor-b", Path("/x/b"), ("true",)),
    ]
    text = task_list(jobs, Resources())
    assert names_in(text) == ["heliodor-a", "heliodor-b"]
    first = ["heliodor-a", "/x/it's $here", sys.executable, "-c", "print('a b')"]
    assert shlex.split(text.splitlines()[0]) == first
    assert " /p/bin/python " in task_list(jobs, Resources(python="/p/bin/python"))
    assert " python3 " in task_list(jobs, Resources(container="apptainer exec h.sif"))
    with pytest.raises(InputError, match="line break"):
        task_list([Job("heliodor-a", Path("/x"), ("echo", "a\nb"))], Resources())
