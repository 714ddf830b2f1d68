"""Heliodor: discovery campaigns for new inorganic crystals."""

__version__ = "0.1.0"
