"""`train` as a Prefect flow: training from a form or on a schedule, its lines in the flow run's log."""

from __future__ import annotations

import io
import logging
from typing import Annotated, Any, cast

from prefect import State, flow, get_run_logger
from prefect.states import Completed
from pydantic import Field
from rich.console import Console

from ..tasks.artifacts import Bar
from .parameters import absolute, campaign_folder, checked, run_name
from .stopping import cancellable
from .train import TrainOptions
from .train import train as run

_DEFAULT = TrainOptions()


class _Lines(io.TextIOBase):
    """A stream whose lines become log messages."""

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self._logger, self._rest = logger, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self._logger.info("%s", line.rstrip())
        return len(text)


@flow(
    name="train",
    flow_run_name=run_name,
    persist_result=False,
    validate_parameters=False,  # `checked` does, and says what it found
)
@checked
@cancellable
def train(
    tables: list[str],
    folder: str,
    options: TrainOptions = _DEFAULT,
    stage_minutes: Annotated[float, Field(gt=0)] | None = None,
) -> State[dict[str, Any]]:
    """Train a diffusion model, or go on with one; keeps the weights whose crystals are best.

    Args:
        tables: Structure tables (Parquet) on the machine that runs it.
        folder: Of weights, log and state; a relative path begins in HELIODOR_RUNS of the machine that
            runs it. The same folder goes on.
        options: How to train and how to judge.
        stage_minutes: End this run after so long; the next one goes on. Empty: train to the end.
    """
    paths = [absolute("tables", table) for table in tables]
    out = campaign_folder(folder, "")
    console = Console(file=cast("Any", _Lines(get_run_logger())), width=160)
    again = "the same parameters"
    bar = Bar(out.name, "training", f"Training of {out.name}: minutes")
    summary = run(
        paths,
        out,
        options,
        console=console,
        for_minutes=stage_minutes,
        resume=again,
        progress=bar.show,
    )
    return Completed(data=summary, message=str(summary["message"]))
