"""The form of a Prefect work pool whose flow runs are Slurm jobs, and what is made of it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from prefect.workers.base import BaseJobConfiguration, BaseVariables
from pydantic import BaseModel, ConfigDict, Field

from ..cluster.scheduler import Job
from ..cluster.settings import Resources
from ..cluster.slurm import PREFIX, Slurm

if TYPE_CHECKING:
    from uuid import UUID


class _Place(BaseModel):
    folder: Path = Field(
        default=Path("~/.heliodor/flow-runs"),
        description="Folder for the jobs' folders and logs, seen by all nodes under the same path.",
    )
    poll: float = Field(default=10, gt=0, description="Seconds between looks at the queue.")


class SlurmVariables(BaseVariables, _Place, Resources):
    """What the form asks for; a deployment's `job_variables` override it field by field."""

    model_config = ConfigDict(frozen=False, extra="ignore")


class SlurmJobConfiguration(BaseJobConfiguration, _Place, Resources):
    """One flow run's job."""

    model_config = ConfigDict(frozen=False, extra="ignore")

    @staticmethod
    def _base_flow_run_command() -> str:
        return "{python} -m prefect flow-run execute"

    def resources(self) -> Resources:
        """What `sbatch` is asked for."""
        return Resources(**{name: getattr(self, name) for name in Resources.model_fields})

    def job(self, flow_run_id: UUID) -> Job:
        """The job of a flow run; a run that is started again keeps its job's name and folder."""
        folder = self.folder.expanduser().absolute() / str(flow_run_id)
        return Job(job_name(flow_run_id), folder, tuple(shlex.split(self.command or "")))

    def slurm(self) -> Slurm:
        """Slurm, whose jobs see the flow run's environment. Prefect starts runs again, not Slurm."""
        environment = {key: value for key, value in self.env.items() if value is not None}
        return Slurm(restarts=0, environment=environment)


def job_name(flow_run_id: UUID) -> str:
    """The name of a flow run's job."""
    return PREFIX + flow_run_id.hex[:24]
