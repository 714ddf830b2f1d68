"""Deployments: a campaign with its parameters and schedule, and the flows with empty forms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from prefect.types.entrypoint import EntrypointType
from pydantic import ValidationError

from .. import __version__
from ..core.campaign import Campaign
from ..core.choices.generators import DiffusionChoice, FilesChoice, SubstitutionChoice
from ..core.choices.references import FileChoice
from ..core.errors import InputError
from ..core.settings import load_settings
from .resuming import HEARTBEAT, TAG, register_resuming
from .server import require_pool, require_server

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.deployments.runner import RunnerDeployment

FORM = "form"
"""Name of the deployments whose runs are asked for by a form, one per flow."""

_ONE = ConcurrencyLimitConfig(
    limit=1,
    # A night that finds the last one still at work has nothing to add: its run is dropped. Queued runs
    # would pile up, and each would go on as soon as the one before ends, by day too.
    collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW,
)


@dataclass(frozen=True)
class Plan:
    """How a campaign is run from the server.

    Args:
        folder: of the campaign; None: its name in HELIODOR_RUNS. rounds: per run; None: to the budget.
        cron: when; None: when somebody asks. timezone: of `cron`, such as Europe/Berlin.
        cluster: a cluster file.
    """

    folder: Path | None = None
    rounds: int | None = None
    attempts: int = 1
    cron: str | None = None
    timezone: str = "UTC"
    cluster: Path | None = None


def deploy(campaign: Campaign | None, plan: Plan, pool: str | None, resumes: int) -> list[str]:
    """Register deployments and the automations that resume their runs; doing it again updates them.

    Args:
        campaign: None: the flows with empty forms. pool: None: the one that Prefect's settings name.
        resumes: how often one run is started again after a crash.

    Returns:
        The names of the deployments.

    Raises:
        MissingError: no server answers. InputError: no such pool, a schedule that is none, or paths that
            would mean something else where the run begins.
    """
    from prefect.settings import get_current_settings

    require_server()
    pool = pool or get_current_settings().deployments.default_work_pool_name
    if pool is None:
        raise InputError(
            "no work pool is named",
            hint="--pool NAME; make one: prefect work-pool create NAME --type process. Without any pool:"
            " heliodor serve",
        )
    made = [of_campaign(campaign, plan)] if campaign else forms()
    with get_client(sync_client=True) as client:
        require_pool(client, pool)
        for deployment in made:
            deployment.work_pool_name = pool
            deployment.job_variables = {"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT)}}
            deployment.apply()
        register_resuming(client, resumes)
    return [deployment.full_name for deployment in made]


def of_campaign(campaign: Campaign, plan: Plan) -> RunnerDeployment:
    """The deployment of one campaign, named after it.

    Raises:
        InputError: see `deploy`.
    """
    from ..flows.discover import discover

    if campaign.name == FORM:
        raise InputError(
            f"name: got {FORM!r}, which is the deployment of the empty form; choose another"
        )
    refuse_relative(campaign)
    folder = plan.folder or load_settings().runs / campaign.name
    given = {
        "campaign": campaign.model_dump(mode="json"),
        "folder": str(folder.absolute()),
        "rounds": plan.rounds,
        "attempts": plan.attempts,
        "cluster": str(plan.cluster.absolute()) if plan.cluster else None,
    }
    made = _deployment(discover, campaign.name, [campaign.name], given, plan)
    _own_kinds_first(made._parameter_openapi_schema.definitions, campaign)  # noqa: SLF001
    made.description = f"{_summary(campaign)}\n\nLedger and report: `{given['folder']}`"
    return made


def _own_kinds_first(definitions: dict[str, Any], campaign: Campaign) -> None:
    """Put the campaign's own choice before the others.

    Prefect's form opens the choice that has most of a value's keys, the first where several have: a
    `relaxer: {kind: none}` would open the first potential.
    """
    for section in definitions["Campaign"]["properties"].values():
        if "anyOf" in section and "discriminator" in section:
            chosen = getattr(campaign, str(section["title"]).lower()).kind
            own = section["discriminator"]["mapping"][chosen]
            section["anyOf"].sort(key=lambda choice, own=own: choice["$ref"] != own)


def _summary(campaign: Campaign) -> str:
    space, budget = campaign.space, campaign.budget
    where = space.formula or "-".join(space.elements) or "all elements"
    return (
        f"Campaign **{campaign.name}**: {where}, {campaign.generator.kind} > {campaign.relaxer.kind} >"
        f" {campaign.reference.kind}, {budget.candidates:,} candidates in rounds of"
        f" {budget.round_size:,}"
    )


def forms() -> list[RunnerDeployment]:
    """The flows, to be run by filling in their forms."""
    from ..flows.discover import discover
    from ..flows.screen import screen
    from ..flows.train_flow import train
    from ..flows.verify_finalists import verify

    flows: tuple[Flow[Any, Any], ...] = (discover, screen, verify, train)
    return [_deployment(flow, FORM, [], {}, Plan()) for flow in flows]


def refuse_relative(campaign: Campaign) -> None:
    """Raise `InputError` where the file names relative paths: a worker begins in another folder."""
    named: dict[str, str | None] = {"review.synthesis_model": campaign.review.synthesis_model}
    match campaign.generator:
        case FilesChoice(paths=paths):
            named |= {f"generator.paths.{i}": path for i, path in enumerate(paths)}
        case DiffusionChoice(weights=weights, around=around):
            named["generator.weights"] = weights
            named |= {
                f"generator.around.paths.{i}": p for i, p in enumerate(around.paths if around else ())
            }
        case SubstitutionChoice(prototypes=path) if path != "aflow":
            named["generator.prototypes"] = path
    if isinstance(campaign.reference, FileChoice):
        named["reference.path"] = campaign.reference.path
    relative = [f"{k}: got {v!r}" for k, v in named.items() if v and not Path(v).is_absolute()]
    if relative:
        raise InputError(
            "relative paths, which mean something else where the run begins:\n  "
            + "\n  ".join(relative),
            hint="write them absolute, as they are on the machine that runs the campaign",
        )


def _deployment(
    flow: Flow[Any, Any], name: str, tags: list[str], parameters: dict[str, Any], plan: Plan
) -> RunnerDeployment:
    made: RunnerDeployment = flow.to_deployment(  # type: ignore[assignment]  # it is synchronous here
        name=name,
        parameters=parameters,
        description=str(flow.description).split("\n\n", maxsplit=1)[0],
        tags=[TAG, *tags],
        version=__version__,
        schedule=_schedule(plan) if plan.cron else None,
        concurrency_limit=_ONE if parameters else None,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return made


def _schedule(plan: Plan) -> Any:
    from prefect.schedules import Cron

    try:
        CronSchedule(cron=str(plan.cron), timezone=plan.timezone)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(
            f"{first['loc'][0] if first['loc'] else 'cron'}: got {first['input']!r}; {first['msg']}",
            hint='a schedule is five fields, such as --cron "0 22 * * *" --timezone Europe/Berlin',
        ) from error
    return Cron(str(plan.cron), timezone=plan.timezone)
