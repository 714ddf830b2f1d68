"""The program ABINIT on this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import lru_cache

from ..core.errors import MissingError

_AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


_HINT = "Debian: apt-get install abinit; elsewhere: conda install -c conda-forge abinit"


def version(command: str) -> str:
    """The version that the program prints, asked once per process.

    Args:
        command: a name on the PATH, or a path.

    Raises:
        MissingError: there is no such program, or it is no ABINIT.
    """
    program = shutil.which(command)
    if program is None:
        raise MissingError(f"the program '{command}' is not on this machine", hint=_HINT)
    return _version(program)


@lru_cache(maxsize=8)
def _version(program: str) -> str:
    try:
        done = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            timeout=60,
            env=os.environ | _AS_ROOT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingError(f"'{program} --version' did not run: {error}", hint=_HINT) from error
    found = re.search(r"^\s*(\d+\.\d+\.\d+)", done.stdout, re.MULTILINE)
    if done.returncode != 0 or found is None:
        raise MissingError(f"'{program} --version' names no version of ABINIT", hint=_HINT)
    return found[1]
