"""Evaluation of models on labelled splits, and of finished maps against reference maps."""
