"""Another evaluator's numbers, and where ours are counted or computed otherwise."""

from __future__ import annotations

from .markup import NOTHING, Html, h, join, percent
from .model import MetricRow, ProtocolData


def protocol_section(data: ProtocolData) -> Html:
    """Two tables: the metrics under the evaluator's names; what differs from the evaluator."""
    numbers = h(
        "table",
        _head("metric", "r:value", "r:counted", "r:95 % interval", "wide:meaning"),
        h("tbody", join(_metric(m) for m in data.metrics)),
        class_="phases protocol",
    )
    differences = h(
        "table",
        _head("differs", data.name, "here"),
        h(
            "tbody",
            join(
                h("tr", h("td", what), h("td", theirs), h("td", ours))
                for what, theirs, ours in data.differences
            ),
        ),
        class_="phases protocol",
    )
    return join([h("div", numbers, class_="scroll"), h("div", differences, class_="scroll")])


def _head(*titles: str) -> Html:
    cells = []
    for title in titles:
        style, _, text = title.rpartition(":")
        cells.append(h("th", text, class_=style or None, scope="col"))
    return h("thead", h("tr", join(cells)))


def _metric(metric: MetricRow) -> Html:
    value: str | Html = NOTHING if metric.value is None else f"{metric.value:.4f}"
    counted = (
        f"{metric.count:,} of {metric.n:,}" if metric.count is not None else f"mean of {metric.n:,}"
    )
    between = "" if metric.low is None or metric.high is None else _between(metric.low, metric.high)
    return h(
        "tr",
        h("td", h("code", metric.name)),
        h("td", value, class_="r num"),
        h("td", counted, class_="r num"),
        h("td", between, class_="r num"),
        h("td", metric.meaning, class_="wide"),
    )


def _between(low: float, high: float) -> str:
    return f"{percent(low)} to {percent(high)}"
