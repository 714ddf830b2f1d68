"""What DFT said of the best crystals: a card for each, the potential and DFT side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from urllib.parse import quote

from .markup import NOTHING, Html, formula, h, join, material, number, percent, quantity, words
from .model import Compared, DftCard, DftData, DftFailure, DftPhase
from .parity_plot import parity_plot

_CARDS = 50
_BADGES = {"confirmed": "sun", "metastable": "yes", "refuted": "no-way", "failed": "warn"}


def dft_section(data: DftData) -> Html:
    """The counts, the potential against DFT over all crystals, then the cards, best first."""
    cards = join(_card(card) for card in data.cards[:_CARDS])
    more = len(data.cards) - _CARDS
    left = h("p", f"{more} further crystals are in the table.", class_="empty") if more > 0 else None
    failures = join(_failure(failure) for failure in data.failures[:_CARDS])
    return join([_overview(data), cards, left, failures])


# --- all crystals --------------------------------------------------------------------------------


def _overview(data: DftData) -> Html:
    plot = h("div", parity_plot(data.cards)) if len(data.cards) > 1 else None
    texts = h("div", _counts(data), _agreement(data.cards), _levels(data.cards), class_="facts")
    return h("div", plot, texts, class_="overview")


def _counts(data: DftData) -> Html:
    """How many came to which verdict, and what the verdicts mean."""
    n = Counter(card.verdict for card in data.cards)
    n["failed"] = len(data.failures)
    meanings = {
        "confirmed": "on or below the hull",
        "metastable": f"at most {data.threshold:g} eV/atom above it",
        "refuted": f"more than {data.threshold:g} eV/atom above it",
        "failed": "could not be computed or judged",
    }
    items = (
        join([h("dt", _badge(verdict)), h("dd", h("b", n[verdict]), " ", h("small", meaning))])
        for verdict, meaning in meanings.items()
        if n[verdict]
    )
    return join([h("h4", "Verdicts"), h("dl", join(items))])


def _agreement(cards: Sequence[DftCard]) -> Html | None:
    """Mean absolute error and bias of the potential, in words."""
    if not cards:
        return None
    errors = [potential - dft for potential, dft in (card.decomposition_energies for card in cards)]
    bias = sum(errors) / len(errors)
    mae = sum(map(abs, errors)) / len(errors)
    models = " and ".join(sorted({card.model for card in cards}))
    side = "low: it calls crystals too stable" if bias < 0 else "high: it calls crystals too unstable"
    crystals = f"{len(cards)} crystals" if len(cards) > 1 else "1 crystal"
    return join(
        [
            h("h4", "Potential against DFT"),
            h(
                "p",
                f"Over {crystals}, the energy above hull by {models} is off by ",
                h("b", quantity(mae, "eV/atom")),
                " (mean absolute error); on average it is ",
                h("b", quantity(abs(bias), "eV/atom")),
                f" too {side} (bias, potential − DFT).",
            ),
        ]
    )


def _levels(cards: Sequence[DftCard]) -> Html | None:
    levels = Counter(card.level for card in cards)
    if not levels:
        return None
    items = (h("li", name, " ", h("small", f"{n} of {len(cards)}")) for name, n in levels.items())
    return join([h("h4", "Levels of theory"), h("ul", join(items), class_="levels")])


# --- a card --------------------------------------------------------------------------------------


def _card(card: DftCard) -> Html:
    return h(
        "article",
        _title(card.formula, card.slot, card.verdict, h("span", card.level, class_="muted level")),
        h(
            "div",
            h("div", _comparison(card), class_="facts"),
            h("div", h("h4", "Level of theory"), _pairs(card.settings), class_="facts"),
            h("div", h("h4", "Calculation"), _pairs(_calculation(card)), class_="facts"),
            class_="parts",
        ),
        _phases(card),
        h("p", card.later_failure) if card.later_failure else None,
        class_="dft",
        id=f"dft-{card.slot}",
    )


def _title(text: str, slot: int, verdict: str, rest: Html | None = None) -> Html:
    return h(
        "div",
        h("h3", formula(text)),
        _badge(verdict),
        h("a", f"no. {slot}", href=f"#slot-{slot}"),
        rest,
        class_="title",
    )


def _badge(verdict: str) -> Html:
    return h("span", verdict, class_=f"badge {_BADGES.get(verdict, 'unknown')}")


def _pairs(pairs: Sequence[tuple[str, Html | str]]) -> Html:
    return h("dl", join(join([h("dt", label), h("dd", value)]) for label, value in pairs))


def _comparison(card: DftCard) -> Html:
    """Each quantity by the potential, by DFT, and the difference."""
    head = h(
        "tr",
        h("th"),
        h("th", "potential", h("small", card.model), class_="r", scope="col"),
        h("th", "DFT", h("small", _short(card.level)), class_="r", scope="col"),
        h("th", "difference", h("small", "potential − DFT"), class_="r", scope="col"),
    )
    rows = [_compared(c) for c in card.compared]
    moved = "too far to tell" if card.rmsd is None else quantity(card.rmsd, "Å")
    rows.append(h("tr", h("td", "RMSD of the sites"), h("td", moved, class_="r", colspan=3)))
    return h("table", h("thead", head), h("tbody", join(rows)), class_="compared")


def _short(level: str) -> str:
    """Functional and code, without the digest that tells levels apart."""
    return level.partition(" (level ")[0]


def _compared(quantity_: Compared) -> Html:
    both = quantity_.potential is not None and quantity_.dft is not None
    difference = (quantity_.potential or 0.0) - (quantity_.dft or 0.0) if both else None
    signed, digits = quantity_.signed, quantity_.digits
    return h(
        "tr",
        h("td", quantity_.label, " ", h("small", quantity_.unit)),
        h("td", number(quantity_.potential, digits, signed=signed), class_="r num"),
        h("td", number(quantity_.dft, digits, signed=signed), class_="r num strong"),
        h("td", number(difference, digits, signed=True), class_="r num"),
    )


def _calculation(card: DftCard) -> list[tuple[str, Html | str]]:
    mended = f" (mended: {', '.join(words(m) for m in card.mended)})" if card.mended else ""
    pairs: list[tuple[str, Html | str]] = [
        ("ionic steps", str(card.steps)),
        ("largest force", quantity(card.max_force, "eV/Å", 4)),
        ("largest stress", quantity(card.max_stress, "eV/Å³", 5)),
        ("attempts", f"{card.attempts}{mended}"),
        ("wall time", _duration(card.seconds)),
    ]
    if card.magnetization is not None:
        pairs.append(("magnetisation", quantity(card.magnetization, "μB per cell", 2)))
    if card.band_gap is not None:
        pairs.append(("band gap", quantity(card.band_gap, "eV", 2) if card.band_gap > 0 else "metal"))
    pairs.append(("input digest", h("code", card.input_digest[:16], title=card.input_digest)))
    pairs.append(("folder", _folder(card.folder)))
    return pairs


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _folder(path: str) -> Html:
    """A link where the folder lies beside the report."""
    if not path:
        return h("span", NOTHING, class_="none")
    if path.startswith("/"):
        return h("code", path)
    return h("a", h("code", path), href=f"{quote(path)}/")


def _phases(card: DftCard) -> Html:
    """The hull that it was judged on: what the crystal decomposes into first."""
    head = h(
        "tr",
        h("th", "competing phase", scope="col"),
        h("th", "share of atoms", class_="r", scope="col"),
        h("th", "eV/atom, ", _short(card.level), class_="r", scope="col"),
        h("th", "structure from", class_="wide", scope="col"),
        h("th", "calculation", class_="wide", scope="col"),
    )
    ordered = sorted(card.phases, key=lambda p: -(p.share or 0.0))
    full = h("table", h("thead", head), h("tbody", join(map(_phase, ordered))), class_="phases")
    hull = h("small", f"hull: {card.hull}")
    return join([h("h4", "Decomposition ", hull), h("div", full, class_="scroll")])


def _phase(phase: DftPhase) -> Html:
    share = NOTHING if phase.share is None else percent(phase.share)
    return h(
        "tr",
        h("td", h("b", formula(phase.formula)), " ", material(phase.material_id)),
        h("td", share, class_="r num"),
        h("td", number(phase.energy_per_atom, 4), class_="r num"),
        h("td", phase.origin, class_="wide"),
        h("td", _folder(phase.folder), class_="wide"),
    )


def _failure(failure: DftFailure) -> Html:
    said = h("p", h("b", words(failure.reason)), ": ", failure.detail)
    title = _title(failure.formula, failure.slot, "failed")
    return h("article", title, said, class_="dft failed", id=f"dft-{failure.slot}")
