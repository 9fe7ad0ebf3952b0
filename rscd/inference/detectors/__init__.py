"""Detectors that need no weights."""
