"""The weights that ship with the package; MODEL_CARD.md beside them says what they are."""

from __future__ import annotations

from pathlib import Path

from ....core.errors import InputError

FOLDER = Path(__file__).parent
TEMPLATES = FOLDER / "templates.npz"


def default_weights() -> Path:
    """The base model."""
    return FOLDER / "base.safetensors"


def shipped_adapters() -> dict[str, Path]:
    """Property adapters that ship, by property."""
    return {path.stem: path for path in sorted((FOLDER / "adapters").glob("*.safetensors"))}


def adapter_path(name: str) -> Path:
    """The adapter of a property: the name of a shipped one, or a path.

    Raises:
        InputError: there is none.
    """
    known = shipped_adapters()
    if name in known:
        return known[name]
    path = Path(name)
    if path.suffix == ".safetensors" and path.is_file():
        return path
    raise InputError(
        f"no adapter for '{name}'; there are: {', '.join(known) or 'none'}, or give a .safetensors file",
        hint="make one with: heliodor finetune TABLE --property NAME --out NAME.safetensors",
    )
