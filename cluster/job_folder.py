"""The folder of a generating or relaxing job: what to do, what came of it, how it ended.

    work.json      what is asked for; written whole, before the folder has its name
    started.json   the node that it runs on, and what it does just now
    results.jsonl  one line per item, each forced to the disk as it finishes
    end.json       written when every item has its line
    error.json     why it cannot work at all: what is said to the user
    job.log        what the program said

The folder's name is the digest of `work.json`. Anyone may read it; one program writes results.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..core.errors import HeliodorError, InputError, StorageError
from ..core.files import write_text

WORK, STARTED, RESULTS, END, ERROR = (
    "work.json", "started.json", "results.jsonl", "end.json", "error.json",
)  # fmt: skip
LOG = "job.log"
_ALONE = "alone"  # one item at a time: a run of several at once died
_TAKEN = "taken.txt"  # failures that were collected: who asks again wants another try
_DIGITS = 24


@dataclass(frozen=True)
class Work:
    """What a job does.

    Args:
        stage: "generate" or "relax". shared: what holds for all items, plain JSON.
        items: by id, plain JSON. again: a number that tells it from earlier work that failed.
    """

    stage: str
    shared: Mapping[str, Any]
    items: Mapping[str, Any]
    again: int = 0

    @cached_property
    def text(self) -> str:
        """As JSON."""
        return json.dumps(
            {
                "stage": self.stage,
                "shared": dict(self.shared),
                "items": dict(self.items),
                "again": self.again,
            },
            sort_keys=True,
        )

    @property
    def digest(self) -> str:
        """Of the content."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:_DIGITS]


@dataclass(frozen=True)
class JobFolder:
    """One job's folder."""

    path: Path

    @property
    def name(self) -> str:
        """The job's name: the same work in another place is another job."""
        return job_name(self.path)

    @cached_property
    def work(self) -> Work:
        """What is asked for.

        Raises:
            InputError: there is no such file, or it cannot be read.
        """
        try:
            record = json.loads((self.path / WORK).read_text(encoding="utf-8"))
            return Work(record["stage"], record["shared"], record["items"], record["again"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"no work in {self.path}: {error!r}") from error

    # --- what its program writes -----------------------------------------------------------------

    def start(self, doing: str | None = None) -> None:
        """Say that the program runs here, and which item it does now where it does one at a time."""
        (self.path / ERROR).unlink(missing_ok=True)
        record = {
            "hostname": socket.gethostname(),
            "pid": os.getpid(),
            "at": time.time(),
            "doing": doing,
        }
        write_text(self.path / STARTED, json.dumps(record) + "\n", "the start of a job")

    def mend(self) -> None:
        """Cut off a last line that a kill or a full disk left unfinished."""
        with suppress(FileNotFoundError), (self.path / RESULTS).open("r+b") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)

    def append(self, id_: str, record: Mapping[str, Any]) -> None:
        """Add one item's result, on the disk when this returns.

        Raises:
            StorageError: the disk refused; the line does not count.
        """
        line = json.dumps({"id": id_, **record}, default=_number) + "\n"
        try:
            with (self.path / RESULTS).open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"cannot write results into {self.path}: {error}") from error

    def end(self, seconds: float) -> None:
        """Say that every item has its line."""
        record = {"hostname": socket.gethostname(), "at": time.time(), "seconds": round(seconds, 3)}
        write_text(self.path / END, json.dumps(record) + "\n", "the end of a job")

    def refuse(self, error: HeliodorError) -> None:
        """Say why the job cannot work at all."""
        record = {"message": error.message, "hint": error.hint}
        write_text(self.path / ERROR, json.dumps(record) + "\n", "the error of a job")

    # --- what others read and write --------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether its end is there."""
        return (self.path / END).is_file()

    def progress(self) -> object:
        """Changes when there are more results, or fewer left to do at a time."""
        with suppress(FileNotFoundError):
            return (self.path / RESULTS).stat().st_size
        return 0

    def results(self, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """The results from a place in the file on, and the place after the last whole line."""
        try:
            with (self.path / RESULTS).open("rb") as file:
                file.seek(offset)
                content = file.read()
        except FileNotFoundError:
            return [], offset
        whole = content[: content.rfind(b"\n") + 1]
        found = []
        for line in whole.splitlines():
            with suppress(ValueError):  # glued to the torn line of a run that could not mend it
                found.append(json.loads(line))
        return found, offset + len(whole)

    @property
    def alone(self) -> bool:
        """Whether the program does one item at a time and says which."""
        return (self.path / _ALONE).exists()

    def set_alone(self) -> None:
        """From the next start on, one item at a time."""
        (self.path / _ALONE).touch()
        (self.path / STARTED).unlink(missing_ok=True)

    @property
    def started(self) -> dict[str, Any] | None:
        """What the program said when it started; None where it did not."""
        return _read(self.path / STARTED)

    @property
    def error(self) -> HeliodorError | None:
        """Why the job cannot work at all."""
        record = _read(self.path / ERROR)
        if record is None:
            return None
        return HeliodorError(f"{record['message']} (in {self.path})", record["hint"])

    def take(self, id_: str) -> None:
        """Note that a failure was collected and recorded."""
        with (self.path / _TAKEN).open("a", encoding="utf-8") as file:
            file.write(f"{id_}\n")

    def taken(self) -> set[str]:
        """The failures that were collected."""
        try:
            return set((self.path / _TAKEN).read_text(encoding="utf-8").split())
        except FileNotFoundError:
            return set()


def write_job(root: Path, work: Work) -> JobFolder:
    """The folder of some work under `root`, made whole or not at all; one that is there stays.

    Raises:
        StorageError: it cannot be written.
    """
    target = root / work.digest
    partial = root / f".{work.digest}.{uuid.uuid4().hex[:8]}"
    try:
        if not (target / WORK).is_file():
            partial.mkdir(parents=True)
            (partial / WORK).write_text(work.text, encoding="utf-8")
            with suppress(OSError):  # another process was first
                partial.rename(target)
            if not (target / WORK).is_file():
                raise OSError(f"{target} is in the way")  # noqa: TRY301
    except OSError as error:
        raise StorageError(f"cannot write the job {target}: {error}") from error
    finally:
        with suppress(OSError):
            (partial / WORK).unlink()
            partial.rmdir()
    return JobFolder(target)


def job_name(folder: Path) -> str:
    """The name under which a folder's job is submitted: by its place, whose name is its content's."""
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()
    return f"heliodor-{digest[:_DIGITS]}"


def last_words(folder: Path) -> str:
    """The last line that a job said."""
    try:
        lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return "it left no word"
    return lines[-1][:300] if lines else "it left no word"


def _number(value: Any) -> Any:
    """Of a third party's numpy scalar."""
    return value.item()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found
