"""Decisions go into a layer of any format and come out of it, and nothing else changes."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from geopandas.testing import assert_geodataframe_equal

from rscd.base.errors import DataError
from rscd.cli import main
from rscd.export.style import review_qml
from rscd.export.vector import SUFFIXES
from rscd.geo.origin import read_provenance
from rscd.geo.reviewed import COLUMNS, read_reviewed
from rscd.geo.vectors import read_layer
from rscd.review.decisions import Decision, Review, read_review, write_review
from rscd.review.layer import outlines, read_change_layer

TIME = "2026-01-31T12:00:00.000Z"
LATER = "2026-02-01T08:30:00.000Z"


def save_review(layer: Path, path: Path, words: list[Any], time: str = TIME, **more: Any) -> Path:
    """A review of polygons 1, 2, ... with these words; None is no decision."""
    read = read_change_layer(layer)
    found = zip(read.table["id"], words, outlines(read), strict=False)
    decisions = [
        Decision(int(number), word, time, outline, **more)
        for number, word, outline in found
        if word
    ]
    write_review(path, Review(read.identity, tuple(decisions)))
    return path


def apply(*arguments: Any) -> int:
    return main(["review", "apply", "-q", *map(str, arguments)])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_decisions_go_into_every_format_and_come_out(
    make_layer: Callable[..., Path], tmp_path: Path, suffix: str
) -> None:
    layer = make_layer(f"change{suffix}")
    before = read_layer(layer, "polygons in").reset_index(drop=True)
    review = save_review(
        layer, tmp_path / "a.geojson", ["accepted", None, "rejected"], note="<b>", reviewer="Ada"
    )
    assert apply(layer, review) == 0
    found = read_reviewed(layer)
    assert found["status"].tolist() == ["accepted", "unreviewed", "rejected", *["unreviewed"] * 3]
    assert found["note"].tolist()[0] == "<b>"
    assert found["time"].tolist()[2] == TIME
    assert_geodataframe_equal(
        found[before.columns], before, check_dtype=False, check_less_precise=True
    )
    out = tmp_path / "out.geojson"
    assert main(["review", "export", "-q", str(layer), "-o", str(out)]) == 0
    written, again = read_review(review), read_review(out)
    assert again.layer == written.layer
    for one, other in zip(written.decisions, again.decisions, strict=True):
        assert replace(one, geometry=None) == replace(other, geometry=None)
        assert one.geometry.equals_exact(other.geometry, 1e-7)
    # once more into the layer, of which it still is a review
    assert apply(layer, out) == 0
    assert [one["decisions"] for one in read_provenance(layer)["reviews"]] == [2, 2]


def test_a_review_of_one_format_is_one_of_the_others(
    make_layer: Callable[..., Path], tmp_path: Path
) -> None:
    review = save_review(make_layer("change.geojson"), tmp_path / "a.geojson", ["unsure"])
    package = make_layer("other.gpkg")
    assert apply(package, review) == 0
    assert read_reviewed(package)["status"].tolist()[:2] == ["unsure", "unreviewed"]


def test_the_latest_of_several_reviewers_counts(
    make_layer: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = make_layer()
    first = save_review(layer, tmp_path / "a.geojson", ["accepted", "accepted"], LATER)
    second = save_review(layer, tmp_path / "b.geojson", ["rejected", "accepted", "unsure"])
    assert main(["review", "apply", str(layer), str(first), str(second), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "output": str(layer),
        **{"accepted": 2, "rejected": 0, "unsure": 1, "unreviewed": 3},
        "conflicts": [1],
    }
    assert "1 polygons were decided differently" in err
    # what stands in the layer counts too: an older review does not replace it
    older = save_review(layer, tmp_path / "c.geojson", ["rejected"], "2025-01-01T00:00:00Z")
    assert apply(layer, older) == 0
    assert read_reviewed(layer)["status"].tolist()[0] == "accepted"


def test_a_redrawn_outline_replaces_the_polygon_and_is_measured(
    make_layer: Callable[..., Path], tmp_path: Path
) -> None:
    layer = make_layer()
    read = read_change_layer(layer)
    west, south, east, north = outlines(read)[1].bounds
    half = shapely.box(west, south, (west + east) / 2, north)
    decision = Decision(2, "accepted", TIME, half, edited=True)
    write_review(tmp_path / "a.geojson", Review(read.identity, (decision,)))
    assert apply(layer, tmp_path / "a.geojson") == 0
    found = read_reviewed(layer)
    assert found["edited"].tolist() == [False, True, *[False] * 4]
    assert found["area_m2"].tolist() == pytest.approx([100, 50, *[100] * 4], rel=0.03)
    assert found.geometry.iloc[1].area == pytest.approx(50, rel=0.01)
    assert found.geometry.iloc[0].equals(read.table.geometry.iloc[0])
    # a decision without an outline leaves the redrawn one as it is
    save_review(layer, tmp_path / "b.geojson", [None, "rejected"], LATER)
    assert apply(layer, tmp_path / "b.geojson") == 0
    again = read_reviewed(layer)
    assert again["edited"].tolist()[1]
    assert again.geometry.iloc[1].equals(found.geometry.iloc[1])


@pytest.mark.parametrize(
    ("count", "provenance", "words"),
    [(6, {"other": 1}, "another layer"), (1, None, "found 2, which the layer lacks")],
)
def test_what_does_not_belong_leaves_the_layer_alone(
    make_layer: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    count: int,
    provenance: dict[str, int] | None,
    words: str,
) -> None:
    review = save_review(make_layer(), tmp_path / "a.geojson", ["accepted", "accepted"])
    other = (
        make_layer("other.gpkg", count)
        if provenance is None
        else make_layer("other.gpkg", count, provenance=provenance)
    )
    before = other.read_bytes()
    assert apply(other, review) == 1
    assert words in capsys.readouterr().err
    assert other.read_bytes() == before
    assert apply(other, review, "-o", tmp_path / "out.gpkg") == 1
    assert not (tmp_path / "out.gpkg").exists()


def test_a_layer_of_another_program_keeps_its_identity(
    make_layer: Callable[..., Path], tmp_path: Path
) -> None:
    layer = make_layer("change.geojson")
    (tmp_path / "change.geojson.json").unlink()
    review = save_review(layer, tmp_path / "a.geojson", ["accepted"])
    other = save_review(layer, tmp_path / "b.geojson", [None, "accepted"])
    assert apply(layer, review) == 0
    assert apply(layer, other) == 0
    assert read_reviewed(layer)["status"].tolist()[:3] == ["accepted", "accepted", "unreviewed"]


def test_without_a_review_the_layer_gets_columns_and_form(make_layer: Callable[..., Path]) -> None:
    layer = make_layer()
    assert apply(layer) == 0
    found = read_layer(layer, "polygons in")
    assert [name for name in found.columns if name in COLUMNS] == list(COLUMNS)
    with closing(sqlite3.connect(layer)) as package:
        assert package.execute("SELECT styleQML FROM layer_styles").fetchall() == [(review_qml(),)]


def test_what_qgis_edits_is_exported(make_layer: Callable[..., Path], tmp_path: Path) -> None:
    layer = make_layer()
    assert apply(layer) == 0
    with closing(sqlite3.connect(layer)) as package, package:
        for name in ("IsEmpty", "MinX", "MaxX", "MinY", "MaxY"):  # named by triggers, not called
            package.create_function(f"ST_{name}", 1, None)
        package.execute(
            "UPDATE changes SET status = 'rejected', note = 'shadow', time = '1769860800000' "
            "WHERE id = 4"
        )
    assert main(["review", "export", "-q", str(layer), "-o", str(tmp_path / "r.geojson")]) == 0
    (one,) = read_review(tmp_path / "r.geojson").decisions
    assert (one.id, one.status, one.note, one.time) == (4, "rejected", "shadow", TIME)


def test_the_users_own_style_stays(make_layer: Callable[..., Path]) -> None:
    layer = make_layer()
    with closing(sqlite3.connect(layer)) as package, package:
        package.execute("UPDATE layer_styles SET styleQML = '<qgis>mine</qgis>'")
    assert apply(layer) == 0
    with closing(sqlite3.connect(layer)) as package:
        assert package.execute("SELECT styleQML FROM layer_styles").fetchall() == [
            ("<qgis>mine</qgis>",)
        ]
    beside = make_layer("change.geojson").with_suffix(".qml")
    beside.write_text("<qgis>mine</qgis>")
    assert apply(beside.with_suffix(".geojson")) == 0
    assert beside.read_text() == "<qgis>mine</qgis>"


def test_nothing_beside_the_layer_is_lost(
    make_layer: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = make_layer()
    with closing(sqlite3.connect(layer)) as package, package:
        package.execute("CREATE TABLE notes (fid INTEGER PRIMARY KEY, text TEXT)")
        package.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier, srs_id) "
            "VALUES ('notes', 'attributes', 'notes', 0)"
        )
    assert apply(layer) == 1
    assert "found notes as well" in capsys.readouterr().err
    out = tmp_path / "out.gpkg"
    assert apply(layer, "-o", out) == 0
    assert apply(layer, "-o", out) == 1
    assert apply(layer, "-o", out, "--overwrite") == 0
    assert apply(layer, "-o", tmp_path / "out.shp") == 2


def test_polygons_in_pixels_have_a_review_in_pixels(
    make_layer: Callable[..., Path], tmp_path: Path
) -> None:
    layer = make_layer("change.geojson", crs=None)
    review = save_review(layer, tmp_path / "a.geojson", ["accepted"])
    found = read_review(review).decisions[0].geometry
    assert found.bounds == read_change_layer(layer).table.geometry.iloc[0].bounds
    assert apply(layer, review) == 0


def test_an_empty_layer_is_one(make_layer: Callable[..., Path], tmp_path: Path) -> None:
    layer = make_layer(count=0)
    assert apply(layer) == 0
    assert len(read_reviewed(layer)) == 0


def test_ids_of_batches_are_kept(make_layer: Callable[..., Path]) -> None:
    layer = make_layer()
    with pytest.raises(DataError, match="no such file"):
        read_change_layer(layer.with_name("none.gpkg"))
    copy = shutil.copy(layer, layer.with_name("copy.gpkg"))
    assert read_change_layer(copy).identity == read_change_layer(layer).identity
    assert np.array_equal(read_change_layer(copy).table["id"], np.arange(1, 7))


def test_small_pictures_are_told_from_degrees_by_their_provenance(
    make_layer: Callable[..., Path],
) -> None:
    about = {"alignment": {"grid": "90 x 60 px of 1 px, no CRS"}}
    layer = make_layer("change.geojson", crs=None, provenance=about)
    layer.write_text(layer.read_text().replace("5000", "0").replace("4999", "0"))
    assert read_change_layer(layer).table.crs is None


def test_pictures_go_into_geopackages_alone(
    make_scene: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = make_scene()
    assert apply(layer, "--pictures") == 0
    found = read_layer(layer, "polygons in")
    assert {bytes(picture[:2]) for picture in found["picture"]} == {b"\xff\xd8"}
    assert len(set(found["picture"])) > 1
    # they stay when decisions come, and a page takes no harm from them
    assert apply(layer, save_review(layer, tmp_path / "a.geojson", ["accepted"])) == 0
    again = read_layer(layer, "polygons in")
    assert again["picture"].equals(found["picture"])
    assert main(["report", "-q", str(layer), "-o", str(tmp_path / "report.html")]) == 0
    assert apply(layer, "--pictures", "-o", tmp_path / "out.geojson") == 2
    assert "expected a .gpkg for --pictures" in capsys.readouterr().err
    assert apply(layer, "--t1", tmp_path / "t1.tif") == 2
