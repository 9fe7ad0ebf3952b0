"""The training-free detectors: statistics, thresholds, and independence of the tiling."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rscd.errors import SceneError
from rscd.inference.baselines import DETECTORS
from rscd.inference.predictor import Block, Predictor

BLOCK = 512


def blocks_of(image, valid=None, halo=0, size=BLOCK):
    """The fixed lattice over an array: halo reflected at the scene's edges and invalid there."""
    height, width = image.shape[2:]
    valid = np.ones((height, width), bool) if valid is None else valid
    wide = np.pad(image, ((0, 0), (0, 0), (halo, halo), (halo, halo)), "symmetric")
    wide_valid = np.pad(valid, halo)
    corners = [(top, left) for top in range(0, height, size) for left in range(0, width, size)]
    for index, (top, left) in enumerate(corners):
        rows = slice(top, min(top + size, height) + 2 * halo)
        cols = slice(left, min(left + size, width) + 2 * halo)
        yield Block(index, wide[:, :, rows, cols].astype(np.float32), wide_valid[rows, cols], halo)


def fit(name, image, valid=None, **options):
    model = DETECTORS[name](**options)
    return model.fit(blocks_of(image, valid, model.tiling.halo), image.shape[2] * image.shape[3])


def predict(predictor, image, valid=None):
    """Whole scene at once, with its halo as the engine gives it: (H, W) probabilities."""
    valid = np.ones(image.shape[2:], bool) if valid is None else valid
    (block,) = blocks_of(image, valid, predictor.tiling.halo, size=max(image.shape))
    prob = predictor(block.image[None], block.valid[None])[0]
    halo = predictor.tiling.halo
    return prob[halo : prob.shape[0] - halo, halo : prob.shape[1] - halo]


def detect(name, image, valid=None):
    return predict(fit(name, image, valid), image, valid)
