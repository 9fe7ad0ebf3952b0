"""From two rasters to results: what a run says of itself."""

import numpy as np
import pytest
import rasterio
from affine import Affine

from rscd import Options, open_pair, predict
from rscd.evaluation.maps import evaluate_maps

DEGREES = Affine(0.01, 0, 10, 0, -0.01, 70)
QUICK = Options(model="cva", overwrite=True, min_area_m2=0, min_score=0)


def write_change(folder, write_tif, shape=(600, 160), **profile):
    """Two dates of noise; a block high up on the grid is bright at t2."""
    rng = np.random.default_rng(0)
    base = rng.random((3, *shape)) * 60 + 60
    t1, t2 = (np.clip(base + rng.normal(0, 2, base.shape), 1, 255) for _ in range(2))
    t2[:, 20:80, 50:120] = 250
    return [
        write_tif(folder / f"{name}.tif", date.astype(np.uint8), **profile)
        for name, date in (("t1", t1), ("t2", t2))
    ]


class TestOneChangeOneArea:
    def test_with_and_without_polygons_on_a_geographic_grid(self, tmp_path, write_tif):
        paths = write_change(tmp_path, write_tif, crs="EPSG:4326", transform=DEGREES)
        pair = open_pair(*paths)
        mask = predict(pair, [tmp_path / "m.tif"], QUICK)
        polygons = predict(pair, [tmp_path / "m.gpkg"], QUICK)
        assert mask.area_m2 == pytest.approx(polygons.area_m2, rel=1e-5)
        assert mask.changed_area_m2 == polygons.changed_area_m2 == mask.area_m2
        # a pixel in the middle of the grid is a fifth larger than one of the change
        assert mask.area_m2 == pytest.approx(4200 * 1113**2 * np.cos(np.radians(69.5)), rel=1e-2)

    def test_polygons_that_are_left_out_still_changed(self, tmp_path, write_tif):
        pair = open_pair(*write_change(tmp_path, write_tif))
        large = Options(model="cva", min_area_m2=1e6)
        result = predict(pair, [tmp_path / "m.gpkg"], large)
        assert (result.n_polygons, result.area_m2) == (0, 0)
        assert result.changed_area_m2 == pytest.approx(100 * result.changed_pixels, rel=1e-3)

    def test_without_a_pixel_size_there_is_none(self, tmp_path, write_tif):
        pair = open_pair(*write_change(tmp_path, write_tif, crs=None, transform=None))
        result = predict(pair, [tmp_path / "m.tif"], QUICK)
        assert result.area_m2 is result.changed_area_m2 is None


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
    def test_results_are_the_same_bytes(self, tmp_path, write_tif, monkeypatch, setting, value):
        georeferenced = setting != "GDAL_GEOREF_SOURCES"  # of inputs, this is for the user to say
        place = {} if georeferenced else {"crs": None, "transform": None}
        paths = write_change(tmp_path, write_tif, shape=(90, 130), **place)
        options = Options(model="cva", overwrite=True, pixel_coordinates=True)
        names = ["a.tif", "a.gpkg", "a.geojson"]

        def made():
            prob = tmp_path / "prob.tif"
            outputs = [tmp_path / name for name in names]
            predict(open_pair(*paths), outputs, options, prob=prob)
            return [path.read_bytes() for path in (*outputs, prob)]

        before = made()
        monkeypatch.setenv(setting, value)
        assert made() == before
        report = evaluate_maps(tmp_path / "a.tif", tmp_path / "a.gpkg")
        assert report.counts.true == report.counts.hit

    def test_what_lies_beside_a_local_file_is_seen(self, tmp_path, write_tif, monkeypatch):
        monkeypatch.setenv("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR")
        t1, t2 = write_change(tmp_path, write_tif, shape=(90, 130))
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(t1, "r+") as dataset:
            mask = np.full(dataset.shape, 255, np.uint8)
            mask[:30] = 0
            dataset.write_mask(mask)
        assert (tmp_path / "t1.tif.msk").exists()
        result = predict(open_pair(t1, t2), [tmp_path / "a.tif"], QUICK)
        assert result.valid_pixels == 60 * 130
