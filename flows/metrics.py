"""Prometheus metrics of campaigns, read from their ledgers, in the text exposition format 0.0.4.

For a textfile collector of node_exporter, print them from cron into its folder; or serve them on a port.
They say nothing about the server: Prefect's own metrics are switched on with
PREFECT_SERVER_METRICS_ENABLED=true (the API server, at /api/metrics) and
PREFECT_CLIENT_METRICS_ENABLED=true (each flow run and worker, port PREFECT_CLIENT_METRICS_PORT, 4201).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ..core.errors import HeliodorError
from ..core.journal import Journal
from ..core.settings import load_settings
from ..tasks.spending import limits, sun_slots
from .build import reopen

log = logging.getLogger("heliodor.flows")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass
class Metric:
    """One metric and its samples: labels and a value."""

    name: str
    kind: str
    meaning: str
    samples: list[tuple[Mapping[str, str], float]] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """As Prometheus reads it."""
        yield f"# HELP {self.name} {self.meaning}"
        yield f"# TYPE {self.name} {self.kind}"
        for labels, value in self.samples:
            inside = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
            yield f"{self.name}{{{inside}}} {value:.10g}"


def metrics_text(folders: Sequence[Path]) -> str:
    """The metrics of the campaigns in these folders.

    A campaign that cannot be read has `heliodor_campaign_up` 0 and nothing else: one bad folder does not
    hide the others.
    """
    up = Metric("heliodor_campaign_up", "gauge", "Whether the campaign's ledger could be read.")
    # No counter: a candidate that failed and is tried again moves from one sample to another.
    outcomes = Metric("heliodor_outcomes", "gauge", "Candidates that ended at a stage, by how they did.")
    spent = Metric("heliodor_spent_total", "counter", "What was spent over all runs, by resource.")
    budget = Metric("heliodor_budget_limit", "gauge", "The budget, by resource; without limit: none.")
    sun = Metric(
        "heliodor_sun_crystals", "gauge", "Stable, unique and novel crystals, by eV/atom above the hull."
    )
    leases = Metric(
        "heliodor_leases_in_flight", "gauge", "Candidates that are being worked on, by stage."
    )
    workers = Metric("heliodor_workers", "gauge", "Processes that work on the campaign.")
    for folder in folders:
        labels = {"folder": str(folder)}
        try:
            _add(folder, outcomes, spent, budget, sun, leases, workers)
        except HeliodorError as error:
            log.warning("no metrics of %s: %s", folder, error)
            up.samples.append((labels, 0))
        else:
            up.samples.append((labels, 1))
    found = (up, outcomes, spent, budget, sun, leases, workers)
    return "\n".join(line for metric in found for line in metric.lines()) + "\n"


def _add(
    folder: Path,
    outcomes: Metric,
    spent: Metric,
    budget: Metric,
    sun: Metric,
    leases: Metric,
    workers: Metric,
) -> None:
    ledger, campaign = reopen(folder, load_settings())
    name = {"campaign": campaign.name}
    for (stage, status, reason), n in ledger.counts().items():
        why = reason.value if reason else ""
        labels = {**name, "stage": stage.value, "status": status.value, "reason": why}
        outcomes.samples.append((labels, n))
    for limit in limits(campaign, ledger, Journal(ledger.database, ledger.campaign_id)):
        labels = {**name, "resource": limit.name}
        if limit.name not in ("sun", "rounds_without_sun"):
            spent.samples.append((labels, limit.spent))
        if limit.limit is not None:
            budget.samples.append((labels, limit.limit))
    for threshold in sorted({0.0, 0.1, campaign.select.max_energy_above_hull}):
        labels = {**name, "threshold": f"{threshold:g}"}
        sun.samples.append((labels, len(sun_slots(ledger, threshold))))
    held = ledger.leases.counts()
    for stage in ledger.stages:
        leases.samples.append(({**name, "stage": stage.value}, held.get(stage, 0)))
    workers.samples.append((name, len(ledger.leases.active_owners())))


def server(folders: Sequence[Path], port: int, host: str = "127.0.0.1") -> ThreadingHTTPServer:
    """A server of the metrics at /metrics, bound and not yet serving. They are read at each request.

    Raises:
        OSError: the port is taken.
    """
    return ThreadingHTTPServer((host, port), _handler(lambda: metrics_text(folders)))


def _handler(text: Callable[[], str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.split("?")[0] not in ("/", "/metrics"):
                self.send_error(404)
                return
            content = text().encode()
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            log.debug(format, *args)

    return Handler


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
