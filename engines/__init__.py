"""Relax and compute: machine-learned potentials and DFT."""
