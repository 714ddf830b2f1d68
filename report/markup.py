"""HTML and SVG as escaped strings, and how numbers, formulas and symbols are written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from html import escape
from typing import Any

_VOID = frozenset({"meta", "br", "input", "col"})
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_MP_ID = re.compile(r"(mp|mvc)-[0-9a-z]+")
NOTHING = "–"


class Html(str):
    """Markup. Every other string is text, and is escaped when it is put into markup."""

    __slots__ = ()


Child = str | int | None


def h(name: str, /, *children: Child, **attrs: str | float | bool | None) -> Html:
    """An element. Strings are escaped unless they are `Html`; None is left out.

    A trailing underscore of an attribute's name is dropped, others become hyphens (`class_`,
    `aria_label`). None and False leave the attribute out, True gives an empty one.
    """
    parts = [f"<{name}"]
    for key, value in attrs.items():
        if value is None or value is False:
            continue
        text = "" if value is True else _attribute(value)
        parts.append(f' {key.removesuffix("_").replace("_", "-")}="{text}"')
    parts.append(">")
    if name not in _VOID:
        parts.extend(_text(child) for child in children)
        parts.append(f"</{name}>")
    return Html("".join(parts))


def join(children: Iterable[Child], between: str = "") -> Html:
    """Children one after the other."""
    return Html(_text(between).join(_text(child) for child in children))


def _attribute(value: str | float) -> str:
    return f"{round(value, 2):g}" if isinstance(value, float) else escape(_clean(str(value)))


def _text(child: Child) -> str:
    if child is None:
        return ""
    return child if isinstance(child, Html) else escape(_clean(str(child)))


def _clean(text: str) -> str:
    """Without the control characters that XML forbids, and with lone surrogates made visible."""
    text = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "\ufffd", text)
    return text.encode("utf-8", "replace").decode("utf-8")


def json_script(content: Any, ident: str) -> Html:
    """Data for the scripts of the page; no text in it can close the element."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return Html(f'<script type="application/json" id="{escape(ident)}">{text}</script>')


def number(value: float | None, digits: int = 3, *, signed: bool = False) -> str:
    """A number with a true minus sign, or a dash for None."""
    if value is None:
        return NOTHING
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def quantity(value: float | None, unit: str, digits: int = 3, *, signed: bool = False) -> Html:
    """A number with its unit."""
    if value is None:
        return h("span", NOTHING, class_="none")
    text = number(value, digits, signed=signed)
    return h("span", text + "\u2009", h("span", unit, class_="unit"), class_="num")


def percent(share: float, digits: int = 1) -> str:
    """A fraction as a percentage."""
    return f"{100 * share:.{digits}f} %"


def formula(text: str) -> Html:
    """A formula with its amounts as subscripts."""
    return Html(re.sub(r"(?<=[A-Za-z)\]])(\d+(?:\.\d+)?)", r"<sub>\1</sub>", escape(_clean(text))))


def plain_formula(text: str) -> str:
    """A formula for SVG: whole amounts as Unicode subscripts."""
    return re.sub(r"(?<=[A-Za-z)\]])(\d+)", lambda m: m[1].translate(_SUBSCRIPTS), text)


def spacegroup(symbol: str | None) -> Html:
    """A Hermann-Mauguin symbol: "-3" with a bar, "6_3" with a subscript."""
    if not symbol:
        return h("span", NOTHING, class_="none")
    text = re.sub(r"-(\d)", r'<span class="bar">\1</span>', escape(_clean(symbol)))
    return h("span", Html(re.sub(r"_(\d)", r"<sub>\1</sub>", text)), class_="sg", aria_label=symbol)


def material(material_id: str | None) -> Html:
    """A material's id, linked where it is one of the Materials Project's."""
    if not material_id:
        return Html("")
    if not _MP_ID.fullmatch(material_id):
        return h("span", material_id, class_="id")
    url = f"https://materialsproject.org/materials/{material_id}"
    return h("a", material_id, href=url, rel="noreferrer", class_="id")


def words(name: str) -> str:
    """A reason such as "atoms_too_close" in words."""
    return name.replace("_", " ")
