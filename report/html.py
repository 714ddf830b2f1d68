"""The report: one self-contained HTML file that works offline."""

from __future__ import annotations

import base64
import hashlib
import logging
from importlib import resources
from pathlib import Path

from ..core.files import write_text
from .crystals import gallery, ranked, scenes, table
from .dft import dft_section
from .hull_plots import hull_figure
from .markup import Html, h, join, json_script, percent, words
from .model import ReportData
from .plots import element_map, energy_legend, funnel, histogram, rates
from .polymorphs import polymorph_tables
from .protocol import protocol_section
from .stats import wilson

log = logging.getLogger("heliodor.report")

_SCRIPTS = ("viewer.js", "report.js")
_HULLS = 24  # diagrams


def write_report(data: ReportData, path: Path) -> None:
    """Write the report, whole or not at all: a reader never meets half a file.

    Raises:
        StorageError: the folder or the file cannot be written.
    """
    text = render(data)
    write_text(path, text, "the report")
    log.info("wrote %s (%d kB)", path, len(text) // 1000)


def render(data: ReportData) -> str:
    """The report as HTML text."""
    rows = ranked(data.rows)
    scripts = [Html(_asset(name)) for name in _SCRIPTS]
    head = h(
        "head",
        h("meta", charset="utf-8"),
        h("meta", name="viewport", content="width=device-width, initial-scale=1"),
        h("meta", name="color-scheme", content="light dark"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">'),
        h("title", f"{data.name}: {_result_text(data)}"),
        h("style", Html(_asset("report.css"))),
    )
    body = h(
        "body",
        _header(data),
        h(
            "main",
            _notes(data),
            h("div", _section("Funnel", funnel(data.funnel)), _rates(data), class_="pair first"),
            _protocol(data),
            h(
                "div",
                _energies(data),
                _section("Elements", element_map(data.element_counts)),
                class_="pair",
            ),
            _dft(data),
            _section("Crystals", join([gallery(rows), table(rows)]), "crystals"),
            _polymorphs(data),
            _hulls(data),
            _failures(data),
            _provenance(data),
        ),
        h("footer", "Made by Heliodor. Everything on this page is in this one file."),
        h("div", id="tip", role="tooltip", hidden=True),
        json_script(scenes(rows), "scenes"),
        join(h("script", script) for script in scripts),
    )
    return "<!doctype html>\n" + h("html", head, body, lang="en") + "\n"


def _asset(name: str) -> str:
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")


def _policy(scripts: list[Html]) -> str:
    """Nothing may be loaded, and only our own scripts run, whatever text the data holds."""
    digests = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    rules = (
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        f"script-src {allowed}",
        "form-action 'none'",
    )
    return "; ".join(rules)


def _section(title: str, content: Html, ident: str | None = None, about: str | None = None) -> Html:
    note = h("p", about, class_="about") if about else None
    return h("section", h("h2", title), note, content, id=ident or title.lower())


# --- sections ------------------------------------------------------------------------------------


def _header(data: ReportData) -> Html:
    verified = ("DFT",) if data.dft else ()
    extra = ("polymorphs",) if data.polymorphs else ()
    links = ("funnel", "energies", *verified, "crystals", *extra, "hulls", "provenance")
    low, high = wilson(min(data.sun, data.proposed), data.proposed)
    share = percent(data.sun / data.proposed) if data.proposed else "–"
    settings = join(h("div", h("dt", label), h("dd", value)) for label, value in data.settings)
    counted = f" SUN {_crystals(data.sun)} of {_thousands(data.proposed)} proposed in "
    meaning = (
        f"Stable (energy above hull ≤ {data.threshold:g} eV/atom), unique and novel, counted jointly: "
        f"{share} of all proposed, 95 % interval {100 * low:.1f} to {100 * high:.1f} %."
    )
    when = data.created_at.strftime("%Y-%m-%d %H:%M %Z").strip()
    return h(
        "header",
        h(
            "div",
            h("span", _emblem(), h("b", "Heliodor"), class_="brand"),
            h(
                "nav",
                join(h("a", name, href=f"#{name.lower()}") for name in links),
                aria_label="Sections",
            ),
            class_="bar",
        ),
        h("p", data.name, *(h("span", s) for s in (f"seed {data.seed}", when)), class_="campaign"),
        h("h1", h("em", data.sun), counted, h("span", data.space.replace("-", "–"), class_="space")),
        h("p", meaning, class_="lead"),
        h("dl", settings, class_="settings") if data.settings else None,
    )


def _emblem() -> Html:
    """A cut beryl: a hexagon with its table."""
    facets = (
        "M12 7 16.3 9.5v5L12 17 7.7 14.5v-5Z"
        "M12 1.5V7M21 6.7l-4.7 2.8M21 17.3l-4.7-2.8M12 22.5V17M3 17.3l4.7-2.8M3 6.7l4.7 2.8"
    )
    gem = h("path", d="M12 1.5 21 6.7v10.6L12 22.5 3 17.3V6.7Z", class_="gem")
    cut = h("path", d=facets, class_="cut")
    return h("svg", gem, cut, viewBox="0 0 24 24", width=22, height=22, aria_hidden="true")


def _result_text(data: ReportData) -> str:
    return f"{data.sun} SUN {_crystals(data.sun)} of {data.proposed} proposed in {data.space}"


def _crystals(n: int) -> str:
    return "crystal" if n == 1 else "crystals"


def _thousands(n: int) -> str:
    return f"{n:,}".replace(",", "\u202f")


def _notes(data: ReportData) -> Html:
    return (
        h("aside", join(h("p", note) for note in data.notes), class_="notes") if data.notes else Html("")
    )


def _rates(data: ReportData) -> Html:
    return _section("Rates", rates(data.rates))


def _protocol(data: ReportData) -> Html:
    if data.protocol is None:
        return Html("")
    name, source = data.protocol.name, data.protocol.source
    about = f"The same crystals counted by the rules of {name}, under its names. Read in {source}."
    return _section("Protocol", protocol_section(data.protocol), about=about)


def _energies(data: ReportData) -> Html:
    about = "Signed: below 0 a crystal lies under the hull of the known phases."
    return _section("Energies", join([histogram(data.all_energies), energy_legend()]), about=about)


def _dft(data: ReportData) -> Html:
    if data.dft is None:
        return Html("")
    about = (
        "The best crystals by DFT; the level of theory is named with the numbers. A hull of phases at "
        "that level holds the elements and the products that the potential's hull names: with more "
        "phases a crystal can only come to lie higher above it."
    )
    return _section("DFT", dft_section(data.dft), about=about)


def _polymorphs(data: ReportData) -> Html:
    if not data.polymorphs:
        return Html("")
    about = (
        "Finalists among all known and judged crystals of their compositions. The gap is to the lowest "
        "other polymorph, in eV/atom; where the two energies come from different levels, it is as "
        "uncertain as the potential."
    )
    return _section("Polymorphs", polymorph_tables(data.polymorphs), about=about)


def _hulls(data: ReportData) -> Html:
    if not data.hulls:
        return _section("Hulls", h("p", "No chemical system has a hull diagram.", class_="empty"))
    kinds = (("known, on the hull", "ref"), ("known, above it", "ref off"), ("candidate", "dia e1"))
    legend = join(
        h("span", h("i", class_=f"swatch {style}"), label, class_="key") for label, style in kinds
    )
    lines = h(
        "span", h("i", class_="swatch line"), "tie line; dashed: changed by a candidate", class_="key"
    )
    figures = h("div", join(hull_figure(d) for d in data.hulls[:_HULLS]), class_="hulls")
    more = len(data.hulls) - _HULLS
    rest = (
        h("p", f"{more} further chemical systems are not drawn.", class_="empty") if more > 0 else None
    )
    about = (
        "Tie lines join phases that are stable together. Candidates are coloured by energy above hull."
    )
    content = join([h("p", legend, lines, class_="legend"), energy_legend(), figures, rest])
    return _section("Hulls", content, about=about)


def _failures(data: ReportData) -> Html:
    if not data.failures:
        return Html("")
    head = h(
        "tr",
        h("th", "stage"),
        h("th", "reason"),
        h("th", "crystals", class_="r"),
        h("th", "for example"),
    )
    body = join(
        h("tr", h("td", f.stage), h("td", words(f.reason)), h("td", f.count, class_="r num"),
          h("td", h("code", f.example[:400])))
        for f in data.failures
    )  # fmt: skip
    full = h("table", h("thead", head), h("tbody", body), class_="phases")
    about = "A failure is not a rejection: these crystals could not be judged or computed."
    return _section("Failures", h("div", full, class_="scroll"), about=about)


def _provenance(data: ReportData) -> Html:
    items = join(h("div", h("dt", key), h("dd", value)) for key, value in data.provenance.items())
    return _section("Provenance", h("dl", items, class_="provenance"))
