"""A folder per calculation, named by content: it is there whole or not at all, and never overwritten."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import shutil
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.crystal import Crystal

logger = logging.getLogger("heliodor.engines")

MANIFEST = "manifest.json"
_PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}")
_STALE_SECONDS = 3600  # an unfinished folder this old belongs to a process that died


def place(
    folder: Path, crystal: Crystal, digest: str, only: str | None = None
) -> tuple[Path, dict[str, Any] | None]:
    """Where a calculation belongs, and its manifest if it is there already.

    Args:
        digest: of its inputs. only: as in `complete`.
    """
    name = f"{crystal.formula}-{crystal.digest[:12]}"
    target = folder / name
    done = complete(target, only)
    if done and done["input_digest"] != digest:  # other settings: stand beside, overwrite nothing
        target = folder / f"{name}-{digest[:8]}"
        done = complete(target, only)
    return target, done


def complete(target: Path, only: str | None = None) -> dict[str, Any] | None:
    """The folder's manifest, if all files that it names are there and are what it says.

    Args:
        only: look at this file alone.
    """
    record = manifest_of(target)
    if record is None:
        return None
    for name, sha256 in record["files"].items():
        if only not in (None, name):
            continue
        path = target / name
        if not path.is_file() or _sha256(path.read_bytes()) != sha256:
            return None
    return record


def manifest_of(target: Path) -> dict[str, Any] | None:
    """What `manifest.json` says, or None where there is none that can be read."""
    try:
        record = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    whole = isinstance(record, dict) and {"files", "input_digest", "flow_uuid"} <= record.keys()
    return record if whole else None


def write(target: Path, texts: Mapping[str, str], record: dict[str, Any]) -> dict[str, Any]:
    """Write the folder beside its place and rename it; returns the manifest that is there then.

    Args:
        texts: relative path -> content. record: the manifest, to which checksums are added.
    """
    record = {**record, "files": {name: _sha256(text.encode()) for name, text in texts.items()}}
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        for name, text in texts.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        (partial / MANIFEST).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        try:
            partial.rename(target)
        except OSError:
            if not target.exists():
                raise
            other = complete(target)
            if other and other["input_digest"] == record["input_digest"]:
                return other  # another process was first
            aside = target.with_name(f"{target.name}.incomplete-{uuid.uuid4().hex[:8]}")
            logger.warning("%s is incomplete or was changed; moved to %s", target, aside.name)
            target.rename(aside)
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return record


def sweep(folder: Path) -> None:
    """Remove the unfinished folders of processes that died."""
    for path in folder.iterdir():
        if _PARTIAL.fullmatch(path.name) and path.is_dir():
            with contextlib.suppress(FileNotFoundError):  # its process may be alive after all
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
