"""Errors a user can act on. Misuse raises; the failure of one crystal is a value (`records.Failure`)."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the command line returns to the shell."""

    OK = 0
    ERROR = 1  # something broke while working; what was computed is kept
    USAGE = 2  # bad input: nothing was started
    MISSING = 3  # an extra, weights, a key or a program is not there
    STORAGE = 4  # disk or database
    INTERRUPTED = 130  # Ctrl-C; resume by running the same command


class HeliodorError(Exception):
    """Base of every error with a message meant for the user.

    Args:
        message: what was found and what would be right, in one line or a short list.
        hint: what to do about it.
    """

    exit_code = ExitCode.ERROR

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  -> {self.hint}"


class InputError(HeliodorError):
    """The user's input is wrong; raised before any work starts."""

    exit_code = ExitCode.USAGE


class MissingError(HeliodorError):
    """A dependency, weights file, key or program is missing; the hint says how to get it."""

    exit_code = ExitCode.MISSING


class StorageError(HeliodorError):
    """The disk or the database refused; nothing that was recorded is lost."""

    exit_code = ExitCode.STORAGE


class ReferenceUnavailableError(HeliodorError):
    """A reference could not answer (offline, key refused, no snapshot)."""

    exit_code = ExitCode.MISSING


def missing_extra(package: str, extra: str) -> MissingError:
    """The error for an optional package that is not installed."""
    return MissingError(
        f"the package '{package}' is not installed", hint=f"pip install 'heliodor[{extra}]'"
    )
