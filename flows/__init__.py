"""Prefect flows: one module per flow; build.py alone knows the concrete classes."""
