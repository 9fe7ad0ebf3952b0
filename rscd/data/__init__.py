"""Datasets, samplers, splits and synthetic change."""
