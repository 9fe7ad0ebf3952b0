"""From two rasters to results: what a run says of itself."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from rscd import Options, open_pair, predict, predict_events
from rscd.base.errors import UsageError
from rscd.evaluation.maps import evaluate_maps
from rscd.export.targets import Targets
from rscd.geo.area import Area
from rscd.inference import network
from rscd.inference.shipped import shipped_card, shipped_path
from rscd.labels.from_segmenter import LabelOptions
from rscd.pipeline import run as run_module
from rscd.pipeline.run import resolve
from rscd.segmenters.prompts import parse_prompts
from rscd.segmenters.segmenter import load_segmenter

DEGREES = Affine(0.01, 0, 10, 0, -0.01, 70)
QUICK = Options(model="cva", overwrite=True, min_area_m2=0, min_score=0)


def write_change(
    folder: Path,
    write_tif: Callable[..., Path],
    shape: tuple[int, int] = (600, 160),
    **profile: Any,
) -> tuple[Path, Path]:
    """Two dates of noise; a block high up on the grid is bright at t2."""
    rng = np.random.default_rng(0)
    base = rng.random((3, *shape)) * 60 + 60
    t1, t2 = (np.clip(base + rng.normal(0, 2, base.shape), 1, 255) for _ in range(2))
    t2[:, 20:80, 50:120] = 250
    return (
        write_tif(folder / "t1.tif", t1.astype(np.uint8), **profile),
        write_tif(folder / "t2.tif", t2.astype(np.uint8), **profile),
    )


class TestOneChangeOneArea:
    def test_with_and_without_polygons_on_a_geographic_grid(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        paths = write_change(tmp_path, write_tif, crs="EPSG:4326", transform=DEGREES)
        pair = open_pair(*paths)
        mask = predict(pair, [tmp_path / "m.tif"], QUICK)
        polygons = predict(pair, [tmp_path / "m.gpkg"], QUICK)
        assert mask.area_m2 == pytest.approx(polygons.area_m2, rel=1e-5)
        assert mask.changed_area_m2 == polygons.changed_area_m2 == mask.area_m2
        # a pixel in the middle of the grid is a fifth larger than one of the change
        assert mask.area_m2 == pytest.approx(4200 * 1113**2 * np.cos(np.radians(69.5)), rel=1e-2)

    def test_polygons_that_are_left_out_still_changed(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        pair = open_pair(*write_change(tmp_path, write_tif))
        large = Options(model="cva", min_area_m2=1e6)
        result = predict(pair, [tmp_path / "m.gpkg"], large)
        assert (result.n_polygons, result.area_m2) == (0, 0)
        assert result.changed_area_m2 == pytest.approx(100 * result.changed_pixels, rel=1e-3)

    def test_without_a_pixel_size_there_is_none(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        pair = open_pair(*write_change(tmp_path, write_tif, crs=None, transform=None))
        result = predict(pair, [tmp_path / "m.tif"], QUICK)
        assert result.area_m2 is result.changed_area_m2 is None


def test_a_result_without_data_is_no_result_without_change(
    tmp_path: Path, write_tif: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    paths = write_change(tmp_path, write_tif, shape=(96, 128))
    with rasterio.open(paths[0], "r+") as dataset:
        pixels = dataset.read()
        pixels[:, :, :50] = 0
        dataset.write(pixels)
        dataset.nodata = 0
    left, bottom, _, top = open_pair(*paths).grid.boundingbox.bbox
    for width, said in ((500, True), (510, False)):
        caplog.clear()
        area = Area(shapely.box(left, bottom, left + width, top), None)
        result = predict(open_pair(*paths, area=area), [tmp_path / "m.tif"], QUICK)
        assert (result.valid_pixels == 0) is said
        assert ("no pixel has data at both dates" in caplog.text) is said


@pytest.fixture
def pictures(tmp_path: Path, write_tif: Callable[..., Path]) -> tuple[Path, Path]:
    return write_change(tmp_path, write_tif, shape=(96, 128), crs=None, transform=None)


class TestThePixelSizeIsThePairs:
    """One size, stated once, measures what is written and is what the provenance says."""

    def recorded(self, path: Path) -> dict[str, Any]:
        return json.loads(path.with_name(f"{path.name}.json").read_text())

    def test_of_maps(self, pictures: tuple[Path, Path], tmp_path: Path) -> None:
        out = tmp_path / "m.geojson"
        options = Options(model="cva", pixel_coordinates=True, threshold=0.5)
        pair = open_pair(*pictures, gsd_m=2.0)
        result = predict(pair, [out], options)
        assert result.changed_area_m2 == 4 * result.changed_pixels > 0
        assert self.recorded(out)["parameters"]["gsd_m"] == 2.0
        assert pair.whole.pixel_size_m == pair.ground.gsd_m == 2.0

    def test_of_events(self, pictures: tuple[Path, Path], tmp_path: Path) -> None:
        """The size once was in two values: NaN areas with 2.0 recorded, or the reverse."""
        out = tmp_path / "e.geojson"
        prompts = parse_prompts("building", "road,grass")
        predict_events(
            open_pair(*pictures, gsd_m=2.0),
            [out],
            load_segmenter("spectral", {}),
            prompts,
            LabelOptions(gamma=0.1, instance_threshold=0.0),
            Options(pixel_coordinates=True),
        )
        areas = [one["properties"]["area_m2"] for one in json.loads(out.read_text())["features"]]
        assert areas
        assert all(area > 0 and area % 4 == 0 for area in areas)
        found = self.recorded(out)
        assert found["rules"]["gsd_m"] == found["segmentation"]["gsd_m"] == 2.0

    def test_options_state_it_for_one_release(
        self, pictures: tuple[Path, Path], tmp_path: Path
    ) -> None:
        with pytest.warns(DeprecationWarning, match="give it to open_pair"):
            old = Options(model="cva", pixel_coordinates=True, threshold=0.5, gsd_m=2.0)
        files = [tmp_path / name for name in ("a.geojson", "b.geojson", "c.geojson")]
        new = Options(model="cva", pixel_coordinates=True, threshold=0.5)
        predict(open_pair(*pictures), files[:1], old)
        predict(open_pair(*pictures, old), files[1:2], new)
        predict(open_pair(*pictures, gsd_m=2.0), files[2:], new)
        assert len({path.read_bytes() for path in files}) == 1
        assert len({json.dumps(self.recorded(path)) for path in files}) == 1
        with pytest.raises(UsageError, match=r"expected one pixel size, found 3 m .* and 2 m"):
            predict(open_pair(*pictures, gsd_m=3.0), [tmp_path / "d.geojson"], old)

    def test_what_it_cannot_be(
        self, pictures: tuple[Path, Path], tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        with pytest.raises(UsageError, match="above 0 metres, found 0"):
            open_pair(*pictures, gsd_m=0)
        georeferenced = write_tif(tmp_path / "g.tif", np.ones((3, 8, 8), np.uint8))
        with pytest.raises(UsageError, match="found pixels of 10 m in the file"):
            open_pair(georeferenced, georeferenced, gsd_m=0.5)


class TestARunIsResolvedOnce:
    def test_every_default_has_its_value(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        pair = open_pair(*write_change(tmp_path, write_tif, shape=(64, 64)))
        targets = Targets.of([tmp_path / "c.gpkg"], None, None)
        run = resolve(pair, targets, Options(model="buildings"))
        card = shipped_card()
        assert run.outlining["min_area_m2"] == card["min_area_m2"]
        assert run.min_score == card["min_score"]
        assert run.outlining["regularize"] is True
        asked = Options(model="buildings", threshold=0.3, simplify_m=1.0, min_area_m2=7.0)
        run = resolve(pair, targets, asked)
        shown = run.provenance["parameters"]
        assert (shown["min_area_m2"], shown["min_score"], shown["regularize"]) == (7.0, 0.0, False)

    def test_the_card_is_read_once(
        self, tmp_path: Path, write_tif: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = network.load_network(shipped_path(), "cpu", 1)
        monkeypatch.setattr(run_module, "scene_model", lambda *args, **more: model)
        asked: list[network.Network] = []
        real = network.Network.card

        def noted(self: network.Network) -> dict[str, Any]:
            asked.append(self)
            return real(self)

        monkeypatch.setattr(network.Network, "card", noted)
        pair = open_pair(*write_change(tmp_path, write_tif, shape=(64, 64)))
        predict(pair, [tmp_path / "c.gpkg"], Options(model="buildings"))
        assert asked == [model]


class TestSettingsOfTheUser:
    """What is set for data in a bucket concerns neither scratch files nor what is written."""

    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            ("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR"),
            ("GDAL_DISABLE_READDIR_ON_OPEN", "TRUE"),
            ("GDAL_PAM_ENABLED", "NO"),
            ("GDAL_GEOREF_SOURCES", "NONE"),
            ("CPL_VSIL_CURL_ALLOWED_EXTENSIONS", ".tif"),
        ],
    )
    def test_results_are_the_same_bytes(
        self,
        tmp_path: Path,
        write_tif: Callable[..., Path],
        monkeypatch: pytest.MonkeyPatch,
        setting: str,
        value: str,
    ) -> None:
        georeferenced = setting != "GDAL_GEOREF_SOURCES"  # of inputs, this is for the user to say
        place: dict[str, Any] = {} if georeferenced else {"crs": None, "transform": None}
        paths = write_change(tmp_path, write_tif, shape=(90, 130), **place)
        options = Options(model="cva", overwrite=True, pixel_coordinates=True)
        names = ["a.tif", "a.gpkg", "a.geojson"]

        def made() -> list[bytes]:
            prob = tmp_path / "prob.tif"
            outputs = [tmp_path / name for name in names]
            predict(open_pair(*paths), outputs, options, prob=prob)
            return [path.read_bytes() for path in (*outputs, prob)]

        before = made()
        monkeypatch.setenv(setting, value)
        assert made() == before
        report = evaluate_maps(tmp_path / "a.tif", tmp_path / "a.gpkg")
        assert report.counts.true == report.counts.hit

    def test_what_lies_beside_a_local_file_is_seen(
        self, tmp_path: Path, write_tif: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR")
        t1, t2 = write_change(tmp_path, write_tif, shape=(90, 130))
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(t1, "r+") as dataset:
            mask = np.full(dataset.shape, 255, np.uint8)
            mask[:30] = 0
            dataset.write_mask(mask)
        assert (tmp_path / "t1.tif.msk").exists()
        result = predict(open_pair(t1, t2), [tmp_path / "a.tif"], QUICK)
        assert result.valid_pixels == 60 * 130


def test_pixels_of_a_scene_do_not_pass_through_a_mapper(
    tmp_path: Path, write_tif: Callable[..., Path]
) -> None:
    """Statistics are gathered in this process, which reads what they need itself."""
    carried = []

    def noting(function: Any, jobs: Iterable[Any]) -> Iterator[Any]:
        for job in jobs:
            carried.append(function.func.__name__)
            yield function(job)

    pair = open_pair(*write_change(tmp_path, write_tif))
    predict(pair, [tmp_path / "here.tif"], QUICK)
    predict(pair, [tmp_path / "there.tif"], QUICK, mapper=noting)
    assert set(carried) == {"run_block"}
    assert (tmp_path / "there.tif").read_bytes() == (tmp_path / "here.tif").read_bytes()
