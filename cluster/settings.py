"""The cluster file: where the stages of any campaign run. Nothing in it changes a result."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from ..core.choices.section import Section
from ..core.errors import InputError

_TIME = re.compile(r"(?:(\d+)-)?(\d{1,3}):(\d{2})(?::(\d{2}))?")


class Resources(Section):
    """What a job asks the scheduler for. What is empty is left to the site's defaults."""

    partition: str | None = Field(default=None, description="Partition or queue.")
    account: str | None = Field(default=None, description="Account that is charged.")
    qos: str | None = Field(default=None, description="Quality of service.")
    time: str = Field(
        default="04:00:00",
        description="Walltime, [days-]hours:minutes[:seconds]. What has not ended by then goes on in a"
        " new job.",
    )
    nodes: int = Field(default=1, ge=1, description="Nodes.")
    cpus: int = Field(default=1, ge=1, description="Cores per node.")
    memory_gb: float | None = Field(default=None, gt=0, description="Memory per node, GB.")
    gpus: int = Field(default=0, ge=0, description="GPUs per node.")
    gpu_type: str | None = Field(default=None, description="For example h200.")
    directives: tuple[str, ...] = Field(
        default=(), description="Further options as the scheduler takes them, such as --exclusive."
    )
    setup: tuple[str, ...] = Field(
        default=(), description="Shell lines before the work: module load, export, source."
    )
    container: str | None = Field(
        default=None, description="What to put before the command, such as apptainer exec --nv h.sif."
    )
    python: str | None = Field(
        default=None,
        description="Python on the node; empty: python3 in a container, else the one that submits, by"
        " its full path.",
    )

    @field_validator("time")
    @classmethod
    def _time(cls, value: str) -> str:
        if _TIME.fullmatch(value) is None:
            raise ValueError("give a walltime as hours:minutes:seconds or days-hours:minutes:seconds")
        return value

    @property
    def seconds(self) -> int:
        """The walltime."""
        found = _TIME.fullmatch(self.time)
        assert found is not None
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


class JobflowRemote(Section):
    """A project of the user's jobflow-remote, whose runner brings DFT calculations to its workers."""

    project: str | None = Field(default=None, description="Project; empty: jobflow-remote's default.")
    worker: str | None = Field(default=None, description="Worker; empty: the project's first.")
    exec_config: str | dict[str, Any] | None = Field(
        default=None, description="Name in the project, or modules, export, pre_run, post_run."
    )
    resources: dict[str, Any] | None = Field(
        default=None, description="As the worker's scheduler takes them; empty: the worker's own."
    )


class Cluster(Section):
    """Which stages run as jobs, and how. A stage that is not named runs where the campaign runs."""

    scheduler: Literal["slurm", "pbs", "lsf", "dask"] = Field(
        default="slurm", description="slurm: sbatch; pbs, lsf: by PSI/J; dask: a running Dask scheduler."
    )
    address: str | None = Field(default=None, description="dask: address or file of its scheduler.")
    jobs: Path | None = Field(
        default=None,
        description="Folder of job folders, seen by all nodes; empty: inside the campaign's folder.",
    )
    in_flight: int = Field(default=50, ge=1, description="Jobs queued or running at a time.")
    poll: float = Field(default=10, gt=0, description="Seconds between looks at the queue.")
    batch: int = Field(default=200, ge=1, description="Crystals per generating or relaxing job.")
    resubmit: int = Field(
        default=3, ge=0, description="How often a job that died without any progress is submitted again."
    )
    generate: Resources | None = Field(default=None, description="Jobs that propose crystals.")
    relax: Resources | None = Field(default=None, description="Jobs that relax.")
    dft: Resources | None = Field(default=None, description="Jobs of one DFT calculation each.")
    jobflow_remote: JobflowRemote | None = Field(
        default=None, description="In place of dft: calculations go to the user's jobflow-remote."
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.dft is not None and self.jobflow_remote is not None:
            raise ValueError("dft and jobflow_remote are two ways for the same calculations: give one")
        return self

    @property
    def stages(self) -> dict[str, Resources]:
        """What jobs of each stage ask for, of the stages that run as jobs."""
        every = {"generate": self.generate, "relax": self.relax, "dft": self.dft}
        return {stage: resources for stage, resources in every.items() if resources is not None}

    @property
    def dft_elsewhere(self) -> bool:
        """Whether calculations do not run where the campaign runs."""
        return self.dft is not None or self.jobflow_remote is not None


def load_cluster(path: Path) -> Cluster:
    """Read and check a cluster file.

    Raises:
        InputError: no such file, not YAML, or values out of place; names each.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"no cluster file at {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from error
    try:
        return Cluster.model_validate(content)
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, item['loc'])) or 'the file'}: got {item['input']!r}; {item['msg']}"
            for item in error.errors(include_url=False)
        ]
        raise InputError(f"{path}:\n" + "\n".join(lines)) from error
