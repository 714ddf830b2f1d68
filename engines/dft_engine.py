"""DFT by atomate2 Flows: one engine for every code, which its recipe describes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from threading import Event
from typing import Any

from ..core.choices.dft import DftRun
from ..core.crystal import Crystal
from ..core.errors import StorageError
from ..core.levels import Level
from ..core.records import DftResult, DftTicket, Failure, Reason
from .brought_home import brought_home
from .calculation_folder import place, sweep, write
from .dft_results import crystal_record, read_result, read_shared, write_shared
from .flow_speed import cached_schema_access
from .flow_text import flow_text
from .local_runner import run_here
from .manifest_list import write_manifest
from .recipe import Inputs, Recipe

logger = logging.getLogger("heliodor.engines")

Runner = Callable[[DftTicket, Event], DftResult | Failure | None]
"""Brings a prepared calculation to its end somewhere; None where the event was set before."""

_FLOW = "flow.json"
_PACKAGES = ("heliodor", "atomate2", "jobflow", "pymatgen")


class FlowEngine:
    """Prepares the calculations of a recipe. `heliodor.engines.calculate` runs them.

    Args:
        recipe: the code and its settings.
        run: how calculations are run: time limit, attempts; larger cells are refused.
        shared: a folder of results of all campaigns, by the digest of their inputs.
        elsewhere: who runs them in place of this machine.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: DftRun | None = None,
        shared: Path | None = None,
        elsewhere: Runner | None = None,
    ) -> None:
        self.recipe = recipe
        self.name = recipe.name
        self.remote = elsewhere is not None  # this machine spends nothing on it
        self._settings = run or DftRun()
        self._elsewhere = elsewhere
        self._shared = shared
        self._levels: dict[tuple[str, ...], Level] = {}

    def level(self, elements: Sequence[str]) -> Level:
        """The level of theory for crystals of these elements and their subsets.

        Raises:
            InputError: an element cannot be computed.
        """
        wanted = tuple(sorted(set(elements)))
        if wanted not in self._levels:
            self._levels[wanted] = self.recipe.level(wanted)
        return self._levels[wanted]

    def prepare(
        self, batch: Sequence[Crystal], folder: Path, elements: Sequence[str] = ()
    ) -> list[DftTicket | Failure]:
        """One folder per crystal, `folder/LiFePO4-<12 digits of its key>`; a ticket or failure for each.

        Idempotent by content: a crystal that is there with the same inputs is not written again and
        keeps its Flow's uuid; a calculation of it at another level is left alone and stands beside. A
        folder appears complete or not at all; one that does not agree with its own checksums is
        moved aside (`<name>.incomplete-...`) and made again. Of what runs elsewhere, only the Flow must
        agree: whoever runs a program by hand adds to its inputs, and its outputs tell what it did.

        Args:
            elements: the chemical system whose level is used; empty: each crystal's own.

        Raises:
            StorageError: the folder cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            sweep(folder)
            with cached_schema_access(), warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # abipy's, about itself
                return [self._prepare(crystal, folder, elements) for crystal in batch]
        except OSError as error:
            raise StorageError(f"cannot write DFT inputs under {folder}: {error}") from error

    def ended(self, ticket: DftTicket) -> DftResult | Failure | None:
        """What a calculation has come to, here or in another campaign; None where it would be run."""
        if self._shared and (known := read_shared(self._shared, ticket.key, ticket.input_digest)):
            return known
        return read_result(Path(ticket.path), ticket.input_digest)

    def run(self, ticket: DftTicket, stop: Event) -> DftResult | Failure | None:
        """Bring a calculation to its end; None where `stop` was set before.

        What has ended before is not run again: here, or in another campaign of this machine. Where
        calculations run elsewhere (`run: false`): what has come back; None where nothing has.
        """
        if self._shared and (known := read_shared(self._shared, ticket.key, ticket.input_digest)):
            return known
        if not self._settings.run:
            ended = brought_home(ticket, self.recipe)
        elif self._elsewhere is not None:
            ended = self._elsewhere(ticket, stop)
        else:
            ended = run_here(ticket, self._settings.attempts, self._settings.time_limit, stop)
        if self._shared and isinstance(ended, DftResult):
            write_shared(self._shared, ended)
        return ended

    def _prepare(self, crystal: Crystal, folder: Path, elements: Sequence[str]) -> DftTicket | Failure:
        if len(crystal) > self._settings.max_atoms:
            detail = f"{len(crystal)} atoms in the cell; dft.max_atoms is {self._settings.max_atoms}"
            return Failure(crystal.digest, Reason.DFT_INPUT, detail)
        if lacking := self.recipe.unsupported(crystal.elements):
            detail = "; ".join(f"{symbol}: {why}" for symbol, why in lacking.items())
            return Failure(crystal.digest, Reason.DFT_ELEMENT, detail)
        try:
            level = self.level(elements or crystal.elements)
            inputs = self.recipe.inputs(crystal, level)
            only = None if self._settings.run else _FLOW
            target, record = place(folder, crystal, inputs.digest, only)
            if record is None:
                record = write(target, *self._calculation(crystal, level, inputs))
        except OSError:
            raise
        except Exception as error:  # pymatgen and atomate2 raise many types for odd cells
            detail = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
            logger.debug("no DFT input for %r", crystal, exc_info=True)
            return Failure(crystal.digest, Reason.DFT_INPUT, detail)
        return DftTicket(
            crystal.digest, self.name, str(target), record["input_digest"], record["flow_uuid"]
        )

    def _calculation(
        self, crystal: Crystal, level: Level, inputs: Inputs
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """Texts of the files, and the manifest."""
        flow, jobs = flow_text(self.recipe, crystal, level, inputs.digest)
        texts = {**inputs.files, _FLOW: flow["text"]}
        record = {
            "key": crystal.digest,
            "formula": crystal.formula,
            "n_atoms": len(crystal),
            "crystal": crystal_record(crystal),
            "engine": self.name,
            "options": dict(self.recipe.options),
            "maker": self.recipe.options.get("maker", ""),
            "level": level.as_dict(),
            "input_digest": inputs.digest,
            "flow_uuid": flow["uuid"],
            "n_jobs": len(jobs),
            "jobs": jobs,
            "settings": dict(inputs.settings),
            "notes": list(inputs.notes),
            "versions": {package: _version(package) for package in _PACKAGES},
        }
        return texts, record

    def write_manifest(self, tickets: Sequence[DftTicket], folder: Path) -> Path:
        """List all calculations in `folder/manifest.csv`."""
        return write_manifest(folder, tickets)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
