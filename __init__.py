"""Heliodor: discovery campaigns for new inorganic crystals."""

import os

__version__ = "0.1.0"

# spglib's C library prints on stderr when it tries another tolerance; that says nothing to a user.
os.environ.setdefault("SPGLIB_WARNING", "OFF")
