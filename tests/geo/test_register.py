"""One date moved or bent onto the other, as it is read."""

import json
import pickle
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.warp import Resampling, calculate_default_transform, reproject

from rscd import Options, open_pair, predict
from rscd.base.errors import SceneError, UsageError
from rscd.base.types import Align
from rscd.export.targets import Targets
from rscd.geo.register import (
    Register,
    _doubt,
    doubt_at,
    estimate_field,
    register,
    usual_error,
)
from rscd.geo.registration import Shift, estimate_shift
from rscd.geo.scene import ScenePair
from rscd.geo.source import close_handles
from rscd.geo.tiles import Box
from rscd.pipeline.run import registered, resolve
from rscd.synthetic.towns import Nuisance, plan_town, render_town

SIDE = 352
HALF_METRE = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
WHOLE = Box(0, 0, SIDE, SIDE)
INNER = (slice(24, -24), slice(24, -24))


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_handles()


@pytest.fixture(scope="module")
def town() -> NDArray[Any]:
    """Two dates with other light, season and sensor; what stands on the ground does not lean."""
    drawn = Nuisance.draw(np.random.default_rng(5))
    upright = {date: replace(getattr(drawn, date), off_nadir_deg=0.0) for date in ("t1", "t2")}
    still = replace(drawn, shift_px=(0.0, 0.0), warp_px=0.0, **upright)
    return render_town(plan_town(5, (SIDE, SIDE), 0.5, change_share=0.1), still).image


def constant(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    return 2.4 + 0 * x, -1.3 + 0 * y


def bent(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any] | float, NDArray[Any] | float]:
    return 3 + 1.5 * np.sin(x / 150), -1 + 2 * (y / SIDE) ** 2


def displaced(image: NDArray[Any], field: Callable[..., Any]) -> NDArray[Any]:
    """(C,H,W) whose content at (x, y) lies at (x, y) + field(x, y)."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    from_x, from_y = x, y
    for _ in range(30):
        dx, dy = field(from_x, from_y)
        from_x, from_y = x - dx, y - dy
    maps = (from_x - 0.5).astype(np.float32), (from_y - 0.5).astype(np.float32)
    return np.stack([cv2.remap(band, *maps, cv2.INTER_CUBIC) for band in image])


def opened(
    folder: Path,
    write_tif: Callable[..., Path],
    t1: NDArray[Any],
    t2: NDArray[Any],
    align: Align = "t1",
    **profile: Any,
) -> ScenePair:
    profile = {"transform": HALF_METRE} | profile
    paths = [write_tif(folder / f"{n}.tif", i, **profile) for n, i in (("t1", t1), ("t2", t2))]
    return ScenePair.open(*paths, align=align)


def far(image: NDArray[Any], expected: NDArray[Any]) -> float:
    """Mean difference of one date from what it should be, away from the edges."""
    return np.abs(image - expected.astype(float))[:, *INNER].mean()


@pytest.mark.parametrize("mode", ["shift", "local"])
@pytest.mark.parametrize("align", ["t1", "t2"])
def test_a_shifted_date_comes_to_lie_on_the_other(
    tmp_path: Path, write_tif: Callable[..., Path], town: NDArray[Any], mode: Register, align: Align
) -> None:
    pair = opened(tmp_path, write_tif, town[0], displaced(town[1], constant), align)
    moved, record = register(pair, mode, align)
    assert moved.grid == pair.grid
    assert record is not None
    assert record["moved"] == ("t2" if align == "t1" else "t1")
    sign = 1 if align == "t1" else -1
    assert (record["cols"], record["rows"]) == pytest.approx((2.4 * sign, -1.3 * sign), abs=0.15)
    left = estimate_shift(moved)
    assert left is not None
    assert left.pixels < 0.15
    if align == "t1":
        before, _ = pair.read(WHOLE)
        after, _ = moved.read(WHOLE)
        assert far(after[1], town[1]) < 0.5 * far(before[1], town[1])
        assert far(after[0], before[0]) == 0
    assert "moved by" in moved.alignment[record["moved"]]


def test_a_bent_date_needs_a_field(
    tmp_path: Path, write_tif: Callable[..., Path], town: NDArray[Any]
) -> None:
    pair = opened(tmp_path, write_tif, town[0], displaced(town[1], bent))
    shifted, _ = register(pair, "shift", "t1")
    unbent, record = register(pair, "local", "t1")
    far_shifted, far_unbent = (far(p.read(WHOLE)[0][1], town[1]) for p in (shifted, unbent))
    assert far_unbent < 0.7 * far_shifted
    side = np.linspace(0, SIDE, 9)
    wanted = np.stack(bent(*np.meshgrid(side, side)))
    assert record is not None
    found = np.array([record["field"]["cols"], record["field"]["rows"]])
    inner = (slice(None), slice(1, -1), slice(1, -1))
    assert np.median(np.abs(found - wanted)[inner]) < 0.3
    assert json.loads(json.dumps(record))["register"] == "local"
    doubt = np.array(record["field"]["doubt"])
    assert doubt.shape == (9, 9)
    assert 0 < np.median(doubt[1:-1, 1:-1]) < 0.5


def test_a_field_is_doubted_where_windows_miss_it_and_where_there_are_none() -> None:
    points = np.stack(np.meshgrid(np.arange(0, 500, 50), np.arange(0, 500, 50)), 2).reshape(-1, 2)
    missed = np.where(points[:, 0] < 250, 0.1, 0.4)
    places = np.array([[100, 200], [400, 200], [0, 700], [425.0, 225]])
    found = _doubt(places, points.astype(float), missed, spacing=50)
    assert found[[0, 1, 3]] == pytest.approx([0.1, 0.4, 0.4])
    assert found[2] == pytest.approx(0.1 * (700 - 450) / 50)  # five windows away from the last


def test_doubt_is_read_between_the_points_of_a_field() -> None:
    lattice = np.tile(np.linspace(0, 0.8, 9), (9, 1))
    record = {"register": "local", "field": {"doubt": lattice.tolist()}}
    points = np.array([[0.0, 0], [100, 70], [400, 5], [450, 5]])
    assert doubt_at(record, (200, 400), points) == pytest.approx([0, 0.2, 0.8, 0.8])


@pytest.mark.parametrize(("moved", "sign"), [("t2", 1), ("t1", -1)])
def test_one_shift_is_doubted_by_how_far_its_windows_lie_apart(moved: str, sign: int) -> None:
    measured = asdict(Shift(2.004, -0.5, 9, 9, error=0.01, spread=0.5))
    record = {"moved": moved, "cols": sign * 2.0, "rows": sign * -0.5, "measured": measured}
    points = np.array([[0.0, 0], [100, 70]])
    assert doubt_at(record, (200, 400), points) == pytest.approx([0.80] * 2, abs=0.01)
    assert doubt_at(record, (200, 400), np.empty((0, 2))).shape == (0,)
    # too small for a move: all of it is left
    measured = asdict(Shift(-0.06, 0.08, 9, 9, error=0.01, spread=0.0))
    still = {"moved": moved, "cols": 0.0, "rows": 0.0, "measured": measured}
    assert doubt_at(still, (200, 400), points) == pytest.approx([np.hypot(0.05, 0.1)] * 2)


def test_the_usual_error_is_what_is_said_of_the_scene_as_a_whole() -> None:
    shift = Shift(3.0, -4.0, 9, 9, error=0.01, spread=0.0)
    assert usual_error(None, None) is None
    assert usual_error(None, shift) == pytest.approx(np.hypot(0.05, 5))  # left as it is
    record = {"moved": "t2", "cols": 3.0, "rows": -4.0, "measured": asdict(shift)}
    assert usual_error(record, shift) == pytest.approx(0.05)
    assert usual_error(record, None) == doubt_at(record, (200, 400), np.zeros((1, 2)))[0]
    field = {"field": {"doubt": [[0.3, 0.4], [0.0, 0.0]]}}
    assert usual_error(record | field, shift) == pytest.approx(0.25)


def left_and_told(pair: ScenePair, field: Callable[..., Any]) -> tuple[float, float]:
    """How far one shift leaves a date that a field displaced, and what its record says of that."""
    _, record = register(pair, "shift", "t1")
    assert record is not None
    side = np.linspace(24, SIDE - 24, 9)
    points = np.stack(np.meshgrid(side, side), axis=2).reshape(-1, 2)
    left = np.stack(field(*points.T), axis=1) - (record["cols"], record["rows"])
    error = float(np.sqrt((left**2).sum(axis=1).mean()))
    return error, float(doubt_at(record, (SIDE, SIDE), points)[0])


def test_a_date_that_is_bent_leaves_one_shift_in_doubt(
    tmp_path: Path, write_tif: Callable[..., Path], town: NDArray[Any]
) -> None:
    """The doubt of one shift is about as large as what it leaves."""
    pair = opened(tmp_path, write_tif, town[0], displaced(town[1], bent))
    error, told = left_and_told(pair, bent)
    assert error > 0.5
    assert 0.5 * error < told < 2 * error


def turned(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    return (SIDE / 2 - y) * 0.018, (x - SIDE / 2) * 0.018


def parted(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    return np.where(x < SIDE / 2, 5.0, -5.0), 0 * y


@pytest.mark.parametrize("field", [turned, parted])
def test_where_one_shift_does_not_fit_it_is_said(
    tmp_path: Path,
    write_tif: Callable[..., Path],
    town: NDArray[Any],
    caplog: pytest.LogCaptureFixture,
    field: Callable[..., Any],
) -> None:
    """Windows that lie too far off for the refinement count as far off as they are."""
    pair = opened(tmp_path, write_tif, town[0], displaced(town[1], field))
    error, told = left_and_told(pair, field)
    assert error > 1.5
    assert 0.75 * error < told < 2 * error
    assert f"one shift typically leaves the dates {told:.1f} pixels apart" in caplog.text
    assert "--register local" in caplog.text


def test_where_one_shift_fits_nothing_is_said(
    tmp_path: Path,
    write_tif: Callable[..., Path],
    town: NDArray[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    register(opened(tmp_path, write_tif, town[0], displaced(town[1], constant)), "shift", "t1")
    assert "apart" not in caplog.text


@pytest.mark.parametrize("mode", ["shift", "local"])
def test_every_box_is_cut_from_the_same_pixels(
    tmp_path: Path, write_tif: Callable[..., Path], town: NDArray[Any], mode: Register
) -> None:
    pair = opened(tmp_path, write_tif, town[0], displaced(town[1], bent))
    moved, _ = register(pair, mode, "t1")
    image, valid = moved.read(WHOLE)
    close_handles()
    again = pickle.loads(pickle.dumps(moved))
    for box in (Box(100, 60, 150, 170), Box(0, 0, 64, 64), Box(287, 204, 65, 148), WHOLE):
        part, seen = again.read(box)
        assert (part == image[:, :, *box.slices]).all()
        assert (seen == valid[box.slices]).all()
        close_handles()


@pytest.mark.parametrize("mode", ["shift", "local"])
def test_what_holds_no_data_moves_along(
    tmp_path: Path, write_tif: Callable[..., Path], town: NDArray[Any], mode: Register
) -> None:
    """Declared nodata, an alpha band and a mask mean the same before and after."""
    t2 = displaced(town[1], bent)
    hole = np.ones((SIDE, SIDE), bool)
    hole[200:240, 160:220] = False
    emptied = np.maximum(t2, 1) * hole
    alpha = np.concatenate([t2, hole[None] * np.uint8(255)])
    write_tif(tmp_path / "t1.tif", town[0], transform=HALF_METRE)
    seen = []
    for name, pixels, more in (
        ("nodata", emptied, {"nodata": 0}),
        ("alpha", alpha, {"alpha": True}),
        ("mask", t2, {"mask": hole}),
    ):
        path = write_tif(tmp_path / f"{name}.tif", pixels, transform=HALF_METRE, **more)
        moved, _ = register(ScenePair.open(tmp_path / "t1.tif", path), mode, "t1")
        _, valid = moved.read(WHOLE)
        close_handles()
        holes = ~valid[64:-64, 64:-64]
        assert holes.sum() == pytest.approx(40 * 60, rel=0.12)
        seen.append(holes)
    assert (seen[0] != seen[1]).mean() < 0.003
    assert (seen[0] != seen[2]).mean() < 0.003
    rows, cols = np.nonzero(seen[0])
    by = bent(np.array(190.0), np.array(220.0))
    # by whole pixels: the edge of a hole is where the nearest pixel is
    assert cols.mean() + 64 == pytest.approx(189.5 - by[0], abs=1)
    assert rows.mean() + 64 == pytest.approx(219.5 - by[1], abs=1)


@pytest.mark.parametrize("mode", ["shift", "local"])
def test_another_crs_is_resampled_once(
    tmp_path: Path, write_tif: Callable[..., Path], town: NDArray[Any], mode: Register
) -> None:
    t1 = write_tif(tmp_path / "t1.tif", town[0], transform=HALF_METRE)
    t2 = displaced(town[1], constant)
    bounds = (500_000, 5_000_000 - SIDE / 2, 500_000 + SIDE / 2, 5_000_000)
    crs = ("EPSG:32633", "EPSG:32632")
    transform, width, height = calculate_default_transform(*crs, SIDE, SIDE, *bounds)
    other = np.zeros((3, height, width), np.uint8)
    reproject(
        t2, other, src_transform=HALF_METRE, src_crs=crs[0], dst_transform=transform,
        dst_crs=crs[1], resampling=Resampling.cubic,
    )  # fmt: skip
    path = write_tif(tmp_path / "t2.tif", other, transform=transform, crs=crs[1], nodata=0)
    pair = ScenePair.open(t1, path)
    moved, record = register(pair, mode, "t1")
    assert record is not None
    assert (record["cols"], record["rows"]) == pytest.approx((2.4, -1.3), abs=0.2)
    before, _ = pair.read(WHOLE)
    after, _ = moved.read(WHOLE)
    assert far(after[1], town[1]) < 0.5 * far(before[1], town[1])


def test_pictures_are_registered_too(
    tmp_path: Path, write_tif: Callable[..., Path], town: NDArray[Any]
) -> None:
    t2 = displaced(town[1], constant)
    pair = opened(tmp_path, write_tif, town[0], t2, transform=None, crs=None)
    moved, _ = register(pair, "local", "t1")
    assert far(moved.read(WHOLE)[0][1], town[1]) < 0.5 * far(pair.read(WHOLE)[0][1], town[1])


def test_dates_that_fit_stay_as_they_are(
    tmp_path: Path, write_tif: Callable[..., Path], town: NDArray[Any]
) -> None:
    pair = opened(tmp_path, write_tif, town[0], town[0])
    moved, record = register(pair, "shift", "t1")
    assert moved == pair
    assert record is not None
    assert (record["cols"], record["rows"]) == (0, 0)
    assert register(pair, "off", "t1") == (pair, None)


def test_dates_at_rest_are_seen_at_rest_under_other_light(
    tmp_path: Path, write_tif: Callable[..., Path], town: NDArray[Any]
) -> None:
    found = estimate_shift(opened(tmp_path, write_tif, *town))
    assert found is not None
    assert found.pixels < 0.1


def test_where_nothing_is_clear_it_refuses(
    tmp_path: Path, write_tif: Callable[..., Path], town: NDArray[Any]
) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (2, 3, SIDE, SIDE)).astype(np.uint8)
    pair = opened(tmp_path, write_tif, *noise)
    modes: tuple[Register, ...] = ("shift", "local")
    for mode in modes:
        with pytest.raises(SceneError, match=r"found no clear shift.*--register off"):
            register(pair, mode, "t1")
    half = town[1].copy()
    half[:, :, 90:] = noise[0][:, :, 90:]
    whole = estimate_shift(opened(tmp_path, write_tif, town[0], town[1]))
    close_handles()
    pair = opened(tmp_path, write_tif, town[0], half)
    assert whole is not None
    with pytest.raises(SceneError, match=r"clear shift in \d+ of \d+ windows"):
        estimate_field(pair, whole)


def test_windows_that_changed_do_not_bend_the_field(
    tmp_path: Path, write_tif: Callable[..., Path], town: NDArray[Any]
) -> None:
    t2 = town[1].copy()
    t2[:, 100:200, 100:200] = np.roll(t2, (3, 4), (1, 2))[:, 100:200, 100:200]
    pair = opened(tmp_path, write_tif, town[0], t2)
    whole = estimate_shift(pair)
    assert whole is not None
    field = estimate_field(pair, whole)
    assert field.spread < 2
    assert np.abs(np.median(field.at, axis=(0, 1))).max() < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["shift", "local"])
def test_a_run_gives_the_same_bytes_however_it_is_tiled(
    tmp_path: Path, write_tif: Callable[..., Path], town: NDArray[Any], mode: Register
) -> None:
    pair = opened(tmp_path, write_tif, town[0], displaced(town[1], bent))
    made = []
    for tile_size, workers in ((150, 2), (1024, 1)):
        path = tmp_path / f"{mode}{tile_size}.tif"
        options = Options(model="cva", register=mode, tile_size=tile_size, workers=workers)
        result = predict(pair, [path, path.with_suffix(".fgb")], options)
        made.append(path.read_bytes())
    assert made[0] == made[1]
    with rasterio.open(path) as dataset:
        stored = json.loads(dataset.tags()["rscd_provenance"])
    assert stored["registration"] == json.loads(json.dumps(result.registration))
    assert stored["parameters"]["register"] == mode
    assert stored["shift"]["cols"] == pytest.approx(0, abs=0.3)  # what is left of it
    table = geopandas.read_file(path.with_suffix(".fgb"))
    done = stored["registration"]
    expected = (
        doubt_at(done, (SIDE, SIDE), np.zeros((2, 2)))
        if mode == "shift"
        else np.percentile(done["field"]["doubt"], (0, 100))
    )
    assert len(table)
    assert table.reg_err_px.between(*np.round(expected, 2)).all()


def test_what_was_done_tells_runs_apart(
    tmp_path: Path, write_tif: Callable[..., Path], town: NDArray[Any]
) -> None:
    """An interrupted run is continued by one of the same identity only."""
    pair = opened(tmp_path, write_tif, town[0], displaced(town[1], bent))
    targets = Targets.of([tmp_path / "change.tif"])
    modes: tuple[Register, ...] = ("off", "shift", "local", "local")
    runs = [registered(resolve(pair, targets, Options(model="cva", register=m))) for m in modes]
    off, shift, local, again = (json.dumps(run.identity, sort_keys=True) for run in runs)
    assert local == again
    assert len({off, shift, local}) == 3
    assert "registration" not in off
    assert runs[1].folder == runs[0].folder


def test_a_part_of_a_scene_is_registered_as_the_whole(
    tmp_path: Path, write_tif: Callable[..., Path], town: NDArray[Any]
) -> None:
    from rscd.geo.area import Area

    opened(tmp_path, write_tif, town[0], displaced(town[1], constant))
    area = Area.from_text("500050,4999850,500120,4999920", None)
    part = open_pair(tmp_path / "t1.tif", tmp_path / "t2.tif", area=area)
    whole = open_pair(tmp_path / "t1.tif", tmp_path / "t2.tif")
    moved, record = register(part, "shift", "t1")
    moved_whole, record_whole = register(whole, "shift", "t1")
    assert record == record_whole
    box = Box(0, 0, *part.shape_hw)
    inside = box.moved(*part.window.corner)
    assert (moved.read(box)[0] == moved_whole.read(inside)[0]).all()


def test_a_model_with_flow_of_its_own_refuses(
    tmp_path: Path,
    write_tif: Callable[..., Path],
    town: NDArray[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rscd.inference.predictor import Tiling
    from rscd.pipeline import run

    class Flowing:
        name = "flowing"
        tiling = Tiling(whole_pictures=True)

    monkeypatch.setattr(run, "scene_model", lambda *_, **__: Flowing())
    pair = opened(tmp_path, write_tif, town[0], town[1])
    targets = Targets.of([tmp_path / "a.tif"])
    with pytest.raises(UsageError, match="expected no --register with flowing"):
        run.resolve(pair, targets, Options(register="shift"))
