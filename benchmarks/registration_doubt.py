"""Whether registrations are as uncertain as they say: `reg_err_px` beside the error that is left.

    python benchmarks/registration_doubt.py [--scenes 20] [--first 300]

Scenes are those of `registration.py`, t2 shifted by 0.1 to 12 pixels and bent by a smooth field
(`Nuisance.warp_px`); with --turn it is turned about its centre as well. Both dates are registered,
and at the points of a grid over the scene the distance is taken between where t2 was moved from and
where it should have been moved from. The table has that error and what was told, as root mean
squares, their ratio, and the fraction of points where the error is at most what was told.
"""

import argparse
import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from registration import random_shift, town_and_nuisance, written
from scipy import ndimage
from scipy.interpolate import RBFInterpolator

from rscd import open_pair
from rscd.base.errors import SceneError
from rscd.base.types import Provenance
from rscd.geo.register import Register, doubt_at, register
from rscd.geo.source import close_handles
from rscd.synthetic.towns import Nuisance, render_town
from rscd.synthetic.towns.sensor import warp_field

PER_SIDE = 12
"""Points along each side at which errors are taken."""
EDGE_PX = 24
"""No point lies nearer to the edge: t2 may have no data there."""
Points = NDArray[np.float64]


def true_shift(seed: int, nuisance: Nuisance, side: int, points: Points) -> Points:
    """By how much t2 shows further on what t1 shows at some points.

    Args:
        seed: of the town.
        nuisance: with the shift and the warp, which is a function of where t2 shows it.
        side: of the scene.
        points: (N,2) columns and rows at t1.

    Returns:
        (N,2) columns and rows.
    """
    beyond = 32
    size = (side + 2 * beyond, side + 2 * beyond)
    warp = warp_field(seed, -beyond, -beyond, size, nuisance.warp_px, nuisance.warp_wavelength_px)
    found = np.broadcast_to(nuisance.shift_px, points.shape).astype(np.float64)
    for _ in range(20 if warp is not None else 0):
        at = (points + found + beyond - 0.5)[:, ::-1].T
        bent = [
            ndimage.map_coordinates(np.asarray(warp)[..., n], at, order=1, mode="nearest")
            for n in (0, 1)
        ]
        found = np.add(nuisance.shift_px, np.stack(bent, axis=1))
    return found


def applied_shift(record: Provenance, side: int, points: Points) -> Points:
    """By how much t2 was taken from further on, at some points; see `register`."""
    if "field" not in record:
        return np.broadcast_to((record["cols"], record["rows"]), points.shape)
    field = np.stack([record["field"]["cols"], record["field"]["rows"]], axis=2)
    along = np.linspace(0, side, len(field))
    lattice = np.stack(np.meshgrid(along, along), axis=2).reshape(-1, 2)
    plate = RBFInterpolator(lattice, field.reshape(-1, 2), kernel="thin_plate_spline")
    told: Points = plate(points)
    return told


def turned(image: NDArray[Any], degrees: float) -> NDArray[Any]:
    """(C,H,W) turned about its centre, as `turned_shift` says."""
    height, width = image.shape[1:]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -degrees, 1)
    return np.stack(
        [cv2.warpAffine(b, turn, (width, height), borderMode=cv2.BORDER_REFLECT) for b in image]
    )


def turned_shift(shift: Points, side: int, points: Points, degrees: float) -> Points:
    """Where t2 shows what t1 shows at some points, once it is turned; see `true_shift`."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    found: Points = (points + shift - side / 2) @ np.array([[cos, sin], [-sin, cos]])
    return found + side / 2 - points


def measured(
    seed: int, side: int, mode: Register, warp_px: float, wavelength_px: float, degrees: float
) -> tuple[Points, Points] | None:
    """Errors and what was told of them at the points of one scene; None: refused."""
    rng = np.random.default_rng(seed)
    plan, drawn = town_and_nuisance(seed, side, random_shift(rng), 1.0)
    nuisance = replace(drawn, warp_px=warp_px, warp_wavelength_px=wavelength_px)
    along = np.linspace(EDGE_PX, side - EDGE_PX, PER_SIDE)
    points = np.stack(np.meshgrid(along, along), axis=2).reshape(-1, 2)
    with tempfile.TemporaryDirectory() as name:
        t1, t2 = render_town(plan, nuisance).image
        pair = open_pair(*written(np.stack([t1, turned(t2, degrees)]), Path(name)))
        try:
            _, record = register(pair, mode, "t1")
        except SceneError:
            return None
        finally:
            close_handles()
    assert record is not None
    true = true_shift(plan.seed, nuisance, side, points)
    left = applied_shift(record, side, points) - turned_shift(true, side, points, degrees)
    return np.hypot(*left.T), doubt_at(record, (side, side), points)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--first", type=int, default=300, help="seed of the first scene")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--warps", type=float, nargs="+", default=[0.0, 1.0, 3.0], help="pixels")
    parser.add_argument("--wavelength", type=float, default=250.0, help="of the warp, pixels")
    parser.add_argument("--turn", type=float, default=0.0, help="of t2, degrees clockwise")
    parser.add_argument("--modes", nargs="+", default=["shift", "local"])
    given = parser.parse_args()
    logging.getLogger("rscd").setLevel(logging.ERROR)
    print("| register | warp | refused | error, rms | told, rms | ratio | error at most told |")
    print("|---|---|---|---|---|---|---|")
    seeds = range(given.first, given.first + given.scenes)
    for mode in given.modes:
        for warp_px in given.warps:
            bent = warp_px, given.wavelength, given.turn
            found = [measured(s, given.side, mode, *bent) for s in seeds]
            known = [one for one in found if one is not None]
            error, told = (np.concatenate(part) for part in zip(*known, strict=True))
            rms = [float(np.sqrt((part**2).mean())) for part in (error, told)]
            print(
                f"| {mode} | {warp_px:g} px | {len(found) - len(known)} | {rms[0]:.2f} | "
                f"{rms[1]:.2f} | {rms[0] / rms[1]:.1f} | {100 * (error <= told).mean():.0f} % |",
                flush=True,
            )


if __name__ == "__main__":
    main()
