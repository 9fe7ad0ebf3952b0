"""What notebooks call: images of any form give what files give; results show themselves."""

import gc
import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import odc.geo.xr  # noqa: F401  the accessor .odc
import pytest
import rasterio
from affine import Affine
from geopandas.testing import assert_geodataframe_equal
from numpy.typing import NDArray
from odc.geo.xr import xr_coords
from xarray import DataArray

import rscd
from rscd import Options, Prediction, open_pair, predict
from rscd.base.errors import ModelError, UsageError
from rscd.geo.vectors import read_layer
from rscd.pipeline import maps

OPTIONS = Options(model="cva", min_area_m2=0, min_score=0)
Files = tuple[Path, Path]
PAGE = Path(__file__).parents[2] / "docs" / "python.md"


@pytest.fixture
def files(tmp_path: Path, write_tif: Callable[..., Path]) -> Files:
    """Two dates of noise; a block is bright at t2."""
    rng = np.random.default_rng(0)
    t1 = rng.integers(60, 120, (3, 96, 128)).astype(np.uint8)
    t2 = t1.copy()
    t2[:, 20:60, 50:110] = 250
    return write_tif(tmp_path / "scene_t1.tif", t1), write_tif(tmp_path / "scene_t2.tif", t2)


def arrays_of(files: Files) -> tuple[tuple[NDArray[Any], NDArray[Any]], dict[str, Any]]:
    with rasterio.open(files[0]) as t1, rasterio.open(files[1]) as t2:
        where = {"transform": t2.transform, "crs": t2.crs}
        return (t1.read(), t2.read()), where


def data_arrays_of(files: Files) -> tuple[DataArray, DataArray]:
    coords = xr_coords(open_pair(*files).grid, always_yx=True)
    dims = ("band", "y", "x")
    t1, t2 = arrays_of(files)[0]
    return DataArray(t1, dims=dims, coords=coords), DataArray(t2, dims=dims, coords=coords)


def as_datasets(files: Files, *outputs: Any) -> Prediction:
    with rasterio.open(files[0]) as t1, rasterio.open(files[1]) as t2:
        return predict(t1, t2, *outputs)


FORMS: dict[str, Callable[..., Prediction]] = {
    "paths": lambda files, *rest: predict(*files, *rest),
    "names": lambda files, *rest: predict(str(files[0]), str(files[1]), *rest),
    "datasets": as_datasets,
    "DataArrays": lambda files, *rest: predict(*data_arrays_of(files), *rest),
    "arrays": lambda files, *rest: predict(*arrays_of(files)[0], *rest, **arrays_of(files)[1]),
    "both": lambda files, *rest: predict(files[0], data_arrays_of(files)[1], *rest),
}


class TestAnyFormOfImage:
    @pytest.mark.parametrize("form", FORMS)
    def test_gives_what_files_give(self, form: str, files: Files, tmp_path: Path) -> None:
        pair = open_pair(*files)
        wanted = predict(pair, [tmp_path / "a.tif", tmp_path / "a.fgb"], OPTIONS)
        found = FORMS[form](files, [tmp_path / "b.tif", tmp_path / "b.fgb"], OPTIONS)
        assert wanted.n_polygons == found.n_polygons == 1
        assert (tmp_path / "a.fgb").read_bytes() == (tmp_path / "b.fgb").read_bytes()
        with rasterio.open(tmp_path / "a.tif") as a, rasterio.open(tmp_path / "b.tif") as b:
            assert a.read().tobytes() == b.read().tobytes()
            assert (a.transform, a.crs) == (b.transform, b.crs)


class TestWithoutOutputs:
    def test_all_results_are_there(self, files: Files, tmp_path: Path) -> None:
        pair = open_pair(*files)
        names = ["a.gpkg", "a.tif"]
        maps.predict(pair, [tmp_path / n for n in names], OPTIONS, prob=tmp_path / "p.tif")
        result = predict(*files, options=OPTIONS)
        assert result.outputs == []
        written = read_layer(tmp_path / "a.gpkg", "polygons in").reset_index(drop=True)
        assert_geodataframe_equal(result.polygons, written)
        for array, name in ((result.mask, "a.tif"), (result.prob, "p.tif")):
            with rasterio.open(tmp_path / name) as dataset:
                np.testing.assert_array_equal(array.values, dataset.read(1))
            assert array.odc.geobox == pair.grid
        assert int((result.mask == 1).sum()) == result.changed_pixels

    def test_of_a_pair_and_of_pictures(
        self, tmp_path: Path, write_tif: Callable[..., Path], files: Files
    ) -> None:
        images, _ = arrays_of(files)
        result = predict(*images, options=replace(OPTIONS, min_area_m2=None))
        assert result.polygons.crs is None
        assert len(result.polygons) == predict(open_pair(*files), options=OPTIONS).n_polygons
        assert (result.mask == 1).sum() == result.changed_pixels
        with pytest.raises(UsageError, match=r"ones of pictures without place; use \.plot"):
            result.explore()

    def test_they_live_as_long_as_the_result_and_its_arrays(self, files: Files) -> None:
        result = predict(*files, options=OPTIONS)
        assert result._files.kept is not None
        folder = result._files.kept.folder
        mask = result.mask
        del result
        gc.collect()
        assert (mask == 1).any()
        del mask
        gc.collect()
        assert not folder.exists()

    def test_nothing_is_left_after_an_error(
        self, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        images, where = arrays_of(files)
        before = set(tmp_path.iterdir())
        with pytest.raises(ModelError):
            predict(*images, options=Options(model="no-such"), **where)
        gc.collect()
        assert set(tmp_path.iterdir()) == before


class TestWithOutputs:
    def test_the_result_is_plain_data_and_reads_its_files(
        self, files: Files, tmp_path: Path
    ) -> None:
        out = tmp_path / "c.gpkg"
        result = predict(open_pair(*files), [out], OPTIONS)
        plain = maps.predict(open_pair(*files), [tmp_path / "d.gpkg"], OPTIONS)
        same = {"outputs": [], "seconds": 0}
        assert asdict(result) | same == asdict(plain) | same
        assert out.is_file()
        assert result.outputs == [str(out)]
        assert len(result.polygons) == result.n_polygons == 1

    def test_names_may_be_relative(
        self, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        result = predict(*files, "c.gpkg", OPTIONS)
        monkeypatch.chdir("/")
        assert len(result.polygons) == 1

    def test_what_was_not_asked_for_is_said(self, files: Files, tmp_path: Path) -> None:
        result = predict(*files, tmp_path / "c.gpkg", OPTIONS)
        with pytest.raises(UsageError, match=r"expected a mask .* found .*c\.gpkg; ask for change"):
            _ = result.mask
        with pytest.raises(UsageError, match=r"expected probabilities .*; ask for prob="):
            _ = result.prob
        mask = predict(*files, tmp_path / "c.tif", OPTIONS)
        with pytest.raises(UsageError, match="expected polygons"):
            mask.explore()

    def test_none_stands_for_no_outputs_and_the_usual_options(self, files: Files) -> None:
        wanted = predict(*files, options=OPTIONS)
        for found in (predict(*files, None, OPTIONS), predict(open_pair(*files), None, OPTIONS)):
            assert found.changed_pixels == wanted.changed_pixels > 0
            assert found.outputs == []
        assert open_pair(*files, None).grid == open_pair(*files).grid


class TestArgumentsInTheWrongPlace:
    """Calls that a type checker refuses end in one line."""

    CALLS: ClassVar[dict[str, tuple[Callable[[Any, Any], Any], str]]] = {
        "options as outputs": (
            lambda a, b: predict(a, b, OPTIONS),
            "expected outputs as file names, found Options; name the arguments",
        ),
        "options as outputs of a pair": (
            lambda a, b: predict(open_pair(a, b), OPTIONS),
            "expected outputs as file names, found Options",
        ),
        "a model as options": (
            lambda a, b: predict(a, b, [], "cva"),  # type: ignore[call-overload]
            "expected Options as options, found str",
        ),
        "a number as outputs": (
            lambda a, b: predict(a, b, 5),  # type: ignore[call-overload]
            "expected outputs as file names, found int",
        ),
        "nothing among the outputs": (
            lambda a, b: predict(a, b, [None], OPTIONS),  # type: ignore[list-item]
            "expected outputs as file names, found NoneType",
        ),
        "a number as a file": (
            lambda a, b: predict(a, b, "a.tif", OPTIONS, prob=5),  # type: ignore[call-overload]
            "expected prob as file names, found int; give a path or an address",
        ),
        "one image": (
            lambda a, b: predict(a),
            "as t2, found NoneType",
        ),
        "an image as pair": (
            lambda a, b: predict(pair=a),
            "expected ScenePair as pair, found .*Path",
        ),
        "an option by its name": (
            lambda a, b: predict(a, b, model="cva"),  # type: ignore[call-overload]
            r"expected model among .* Options\(model=...\)\)",
        ),
        "the pixel size of a pair": (
            lambda a, b: predict(open_pair(a, b), gsd_m=1),  # type: ignore[call-overload]
            "expected prob, .*, found gsd_m",
        ),
        "too many": (
            lambda a, b: predict(a, b, [], OPTIONS, "b.tif"),  # type: ignore[call-overload]
            r"expected predict\(t1, t2, outputs, options\) .* found too many positional",
        ),
        "outputs of open_pair": (
            lambda a, b: open_pair(a, b, ["a.tif"]),  # type: ignore[arg-type]
            "expected Options as options, found list",
        ),
        "a box as area": (
            lambda a, b: open_pair(a, b, OPTIONS, "0,0,1,1"),  # type: ignore[arg-type]
            "expected Area as area, found str",
        ),
    }

    @pytest.mark.parametrize("name", CALLS)
    def test_is_said(self, name: str, files: Files) -> None:
        call, told = self.CALLS[name]
        with pytest.raises(UsageError, match=told):
            call(*files)


class TestWhatItShows:
    @pytest.fixture
    def result(self, files: Files) -> Prediction:
        return predict(*files, options=OPTIONS)

    @pytest.mark.parametrize("outputs", [(), ("c.tif",), ("c.geojson",)])
    def test_plots_show_the_change_where_it_is(
        self, files: Files, tmp_path: Path, outputs: tuple[str, ...]
    ) -> None:
        result = predict(*files, [tmp_path / name for name in outputs], OPTIONS)
        figure = result.plot(size_px=64)
        before, after, change = figure.axes
        assert [axis.get_title() for axis in figure.axes] == ["before", "after", "change"]
        t1, t2 = before.images[0].get_array(), after.images[0].get_array()
        assert t1 is not None
        assert t2 is not None
        assert t1.shape == (48, 64, 3)
        assert not np.array_equal(t1, t2)
        if outputs == ("c.tif",):
            drawn = change.images[1].get_array()
            assert drawn is not None
            rows, cols = np.nonzero(drawn[..., 3])
            found = 2 * cols.min(), 2 * rows.min(), 2 * cols.max() + 2, 2 * rows.max() + 2
        else:
            from matplotlib.collections import LineCollection

            lines = change.collections[0]
            assert isinstance(lines, LineCollection)
            points = np.concatenate(lines.get_segments())
            found = *points.min(axis=0), *points.max(axis=0)
        np.testing.assert_allclose(found, (50, 20, 110, 60), atol=0.05)
        figure.canvas.draw()

    def test_maps_hold_the_polygons(self, result: Prediction) -> None:
        pytest.importorskip("folium")
        page = result.explore().get_root().render()
        assert "area_m2" in page

    def test_no_change_makes_no_map(self, files: Files) -> None:
        pytest.importorskip("folium")
        with pytest.raises(UsageError, match="found no change"):
            predict(files[0], files[0], options=replace(OPTIONS, threshold=0.99)).explore()

    @pytest.mark.parametrize(
        ("package", "method", "extra"),
        [("folium", "explore", "notebooks"), ("matplotlib.collections", "plot", "train")],
    )
    def test_what_is_not_installed_is_named(
        self,
        result: Prediction,
        monkeypatch: pytest.MonkeyPatch,
        package: str,
        method: str,
        extra: str,
    ) -> None:
        class Missing:
            def find_spec(self, name: str, *_: Any) -> None:
                if name == package:
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        monkeypatch.delitem(sys.modules, package, raising=False)
        monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
        with pytest.raises(ModelError, match=rf"pip install 'rscd\[{extra}\]'"):
            getattr(result, method)()

    def test_tables_are_escaped(self, result: Prediction) -> None:
        text = result._repr_html_()
        assert "<td style='text-align:left'>cva</td>" in text
        assert f"{result.changed_pixels:,} of {result.valid_pixels:,}" in text
        evil = Prediction.of(replace(result, model="<script>&"), result._files)
        assert "<script>" not in evil._repr_html_()
        assert "&lt;script&gt;&amp;" in evil._repr_html_()


NONSENSE: list[dict[str, Any]] = [
    {"threshold": 50},
    {"threshold": math.nan},
    {"min_score": 80},
    {"min_area_m2": -1},
    {"min_area_m2": math.nan},
    {"misreg": -1},
    {"tile_size": 0},
    {"batch_size": 0},
    {"workers": 0},
    {"align": "first"},
    {"register": "Shift"},
]


class TestOptions:
    @pytest.mark.parametrize("given", NONSENSE, ids=str)
    def test_out_of_range_are_refused(self, given: dict[str, Any]) -> None:
        """As on the command line; a run would find nothing with them, or go on without them."""
        with pytest.raises(UsageError, match=f"expected {next(iter(given))} .*, found "):
            Options(**given)

    @pytest.mark.parametrize("given", [{"bands": (2,)}, {"align": "t2"}, {"src_nodata": 250.0}])
    def test_of_reading_belong_where_the_pair_is_opened(
        self, given: dict[str, Any], files: Files, tmp_path: Path
    ) -> None:
        options = replace(OPTIONS, **given)
        out = tmp_path / "change.tif"
        with pytest.raises(UsageError, match=r"of a pair where it is opened, .*open_pair\(t1, t2"):
            predict(open_pair(*files), out, options)
        assert not out.exists()
        pair = open_pair(*files, options)
        first = predict(pair, out, options)
        again = predict(pair, tmp_path / "again.tif", OPTIONS)  # need not be said twice
        for result in (first, again):
            with rasterio.open(result.outputs[0]) as dataset:
                stored = json.loads(dataset.tags()["rscd_provenance"])["parameters"]
            assert {name: stored[name] for name in given} == json.loads(json.dumps(given))

    def test_no_number_is_a_nodata_value_like_another(self, files: Files) -> None:
        options = replace(OPTIONS, src_nodata=math.nan)
        assert predict(*files, options=options).valid_pixels == 96 * 128


def test_the_page_runs(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files[0].parent)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        known: dict[str, Any] = {}
        exec(block, known)
        assert isinstance(known["result"], rscd.Prediction)
        assert known["result"].n_polygons == 1
    assert (files[0].parent / "change.gpkg").is_file()
    assert known["where"]["transform"] == Affine(10, 0, 500_000, 0, -10, 5_000_000)
