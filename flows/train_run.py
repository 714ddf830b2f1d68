"""One run over a training: progress, judging now and then, the state saved when it ends."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Literal

from .judge import Judge, Judgement, Stopped, better
from .train_log import Display, Log, as_text

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from ..generators.diffusion.train import Progress, Trainer

_log = logging.getLogger("heliodor.flows")

MODEL, LAST, LOG = "model.safetensors", "last.safetensors", "log.csv"
_EVERY = 30.0  # seconds between rows of the log
_SHARE = 3.0  # the next judging waits at least so many times as long as the last one took
_HELD_OUT_BATCHES = 2

Ended = Literal["done", "paused", "stopped"]


class Run:
    """One run over a training, from where it stands to its end, its pause or a signal.

    Args:
        judge_every: minutes of training between judgings.
        stop: set when the run is to stop. until: `time.monotonic()` at which it pauses, or None.
        progress: told how many minutes of how many have been trained.
    """

    def __init__(
        self,
        trainer: Trainer,
        judge: Judge,
        judge_every: float,
        display: Display,
        stop: threading.Event,
        until: float | None,
        progress: Callable[[float, float], None],
    ) -> None:
        self.trainer, self.judge, self.display = trainer, judge, display
        self.stop, self.until, self.progress = stop, until, progress
        self.log = Log(trainer.folder / LOG, trainer.step)
        self.every = 60 * judge_every
        self.next_judging = trainer.notes.get("judged_at", 0.0) + self.every
        self.next_row = 0.0
        self.held: dict[str, float] = {}
        self.judged: Judgement | None = None

    @property
    def paused(self) -> bool:
        """Whether this run's time is over."""
        return self.until is not None and time.monotonic() > self.until

    def go(self) -> Ended:
        """Train and judge; the state is saved.

        Raises:
            InputError: the loss is not a number any more; the saved state is from before.
        """
        trainer = self.trainer
        try:
            for progress in trainer.run():
                self._note(progress)
                if self.stop.is_set() or self.paused:
                    break
                if trainer.seconds >= self.next_judging and trainer.done < 1:
                    self._judge()
            if trainer.done >= 1 and trainer.notes.get("judged_step") != trainer.step:
                self._judge()
        except Stopped:
            pass
        trainer.save_model(trainer.folder / LAST)
        trainer.save()
        if trainer.done >= 1 and trainer.notes.get("judged_step") == trainer.step:
            return "done"
        return "stopped" if self.stop.is_set() else "paused"

    def _note(self, progress: Progress) -> None:
        if time.monotonic() >= self.next_row:
            self.held = self.trainer.held_out_losses(_HELD_OUT_BATCHES)
            self.log.add(
                {
                    "step": progress.step,
                    "minutes": progress.minutes,
                    "crystals_per_second": progress.crystals_per_second,
                    **progress.losses,
                    **{f"held_{name}": value for name, value in self.held.items()},
                }
            )
            self.next_row = time.monotonic() + _EVERY
        parts = [
            f"step {progress.step:,}",
            f"{progress.minutes:.1f}/{self.trainer.settings.minutes:g} min",
            f"{progress.crystals_per_second:,.0f} crystals/s",
            as_text(progress.losses),
        ]
        if self.held:
            parts.append(f"held out {as_text(self.held)}")
        if self.judged:
            parts.append(f"score {self.judged.score:.1%}")
        self.display.show("  ".join(parts))
        self.progress(progress.minutes, self.trainer.settings.minutes)

    def _judge(self) -> None:
        """Judge the averaged weights as they will be used, and keep them if they are the best."""
        trainer = self.trainer
        last = trainer.save_model(trainer.folder / LAST)
        self.display.show(f"step {trainer.step:,}  judging {self.judge.samples} crystals", now=True)
        begun = time.monotonic()
        row: dict[str, object] = {"step": trainer.step, "minutes": trainer.seconds / 60}
        judged: Judgement | None = None
        try:
            judged = self.judge(last, lambda: self.stop.is_set() or self.paused)
        except Stopped:
            raise
        except Exception as error:  # of any kind, from a potential or a half-trained model
            _log.warning("judging failed at step %d", trainer.step, exc_info=True)
            why = f"judging failed: {type(error).__name__}: {error}"[:200]
            self.display.say(f"step {trainer.step:,}: {why}")
            self.log.add({**row, "note": why})
        else:
            self.display.say(f"step {trainer.step:,}: {judged.text()}")
            note = f"{judged.n} crystals, energies: {judged.energy}"
            self.log.add({**row, **judged.rates(), "note": note})
        self.judged = judged or self.judged
        self._keep(judged)
        wait = max(self.every, _SHARE * (time.monotonic() - begun))
        self.next_judging = trainer.seconds + wait
        trainer.notes |= {"judged_step": trainer.step, "judged_at": trainer.seconds}
        trainer.save()

    def _keep(self, judged: Judgement | None) -> None:
        """model.safetensors: the best so far; while nothing could be judged, the last."""
        trainer = self.trainer
        best = trainer.notes.get("best")
        if judged is None:
            if best is None:
                trainer.save_model(trainer.folder / MODEL)
            return
        facts = {"step": trainer.step, **judged.facts()}
        if better(judged, best):
            trainer.notes["best"] = facts
            trainer.save_model(trainer.folder / MODEL, judged=facts)
        trainer.save_model(trainer.folder / LAST, judged=facts)

    def summary(self, ended: Ended) -> dict[str, Any]:
        """What the command reports."""
        trainer = self.trainer
        best = trainer.notes.get("best")
        model = trainer.folder / MODEL
        minutes = trainer.seconds / 60
        parts = [f"{ended} at step {trainer.step:,} after {minutes:.1f} minutes of training"]
        if best:
            parts.append(f"best at step {best['step']:,}: score {best['score']:.1%}")
        if model.exists():
            parts.append(f"wrote {model}")
        return {
            "ended": ended,
            "step": trainer.step,
            "minutes": round(minutes, 2),
            "best": best,
            "model": str(model) if model.exists() else None,
            "message": "; ".join(parts),
        }
