"""Pseudo labels as files: from segmenters, from checkpoints, for synthetic towns."""
