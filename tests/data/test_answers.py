"""Yes/no answers about places of a scene: what is drawn, what is shown, and with which label."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
from affine import Affine

from rscd.base.errors import DataError
from rscd.data.samplers import grid_queries, random_queries
from rscd.data.scenes import Scene, ScenePairs
from rscd.geo.grid import apply

WriteTif = Callable[..., Path]
UTM33 = "EPSG:32633"
TRANSFORM = Affine(10, 0, 500_000, 0, -10, 5_000_000)
SIDE = 32
ROWS, COLUMNS = 3, 4
CHANGED = [True, False, None, True, False, False, True, None, False, True, False, True]


def cell(row: int, column: int, side: int = SIDE) -> shapely.Polygon:
    left, top = TRANSFORM @ (column * side, row * side)
    return shapely.box(left, top - 10 * side, left + 10 * side, top)


CELLS = [cell(row, column) for row in range(ROWS) for column in range(COLUMNS)]


@pytest.fixture
def dates(tmp_path: Path, write_tif: WriteTif) -> tuple[str, str]:
    rng = np.random.default_rng(0)
    shape = (3, ROWS * SIDE, COLUMNS * SIDE)
    t1, t2 = (
        str(write_tif(tmp_path / f"{t}.tif", rng.integers(1, 255, shape, dtype=np.uint8)))
        for t in ("t1", "t2")
    )
    return t1, t2


def write(path: Path, values: Any = CHANGED, cells: Any = CELLS, crs: str = UTM33) -> str:
    frame = geopandas.GeoDataFrame({"changed": values}, geometry=cells, crs=UTM33).to_crs(crs)
    if path.suffix == ".csv":
        edges = pd.DataFrame(shapely.bounds(frame.geometry.to_numpy()))
        edges.columns = pd.Index(["left", "bottom", "right", "top"])
        edges.assign(changed=values).to_csv(path, index=False)
    else:
        frame.to_file(path, engine="pyogrio")
    return str(path)


def number_of(sample: dict[str, Any]) -> int:
    """The cell that a patch of the same size lies on."""
    column, row = apply(~TRANSFORM, sample["transform"].c, sample["transform"].f)
    return round(float(row) / SIDE) * COLUMNS + round(float(column) / SIDE)


@pytest.mark.parametrize(
    ("name", "crs", "values"),
    [
        ("a.gpkg", UTM33, CHANGED),
        ("a.geojson", "EPSG:4326", CHANGED),
        ("a.fgb", "EPSG:3857", ["Yes" if v else "no" if v is False else None for v in CHANGED]),
        ("a.gpkg", UTM33, [None if v is None else int(v) for v in CHANGED]),
        ("a.csv", UTM33, CHANGED),
        ("a.csv", UTM33, ["" if v is None else "t" if v else "f" for v in CHANGED]),
    ],
)
def test_patches_are_the_answered_places_with_their_answers(
    dates: tuple[str, str], tmp_path: Path, name: str, crs: str, values: list[Any]
) -> None:
    answers = write(tmp_path / name, values, crs=crs)
    dataset = ScenePairs([Scene(*dates, answers=answers)])
    assert dataset.keys == {"image", "valid", "label"}
    whole = ScenePairs([Scene(*dates)])
    drawn = set()
    for query in random_queries(dataset, SIDE, 80, seed=(0,)):
        sample = dataset[query]
        number = number_of(sample)
        assert int(sample["label"]) == CHANGED[number]
        valid = sample["valid"][0].numpy()
        assert valid.mean() > (0.9 if name == "a.fgb" else 0.99)  # cells in 3857 are turned
        seen = whole[query]["image"].numpy()
        np.testing.assert_array_equal(sample["image"].numpy()[..., valid], seen[..., valid])
        assert not sample["image"].numpy()[..., ~valid].any()
        drawn.add(number)
    assert sorted(drawn) == [i for i, changed in enumerate(CHANGED) if changed is not None]


def test_only_the_place_itself_is_shown(dates: tuple[str, str], tmp_path: Path) -> None:
    """A round parcel, larger patches than places, and places larger than patches."""
    parcel = shapely.Point(500_400, 4_999_600).buffer(150)
    answers = write(tmp_path / "a.gpkg", [True, False], [parcel, cell(0, 1, 48)])
    dataset = ScenePairs([Scene(*dates, answers=answers)], keys={"image", "label", "valid"})
    labels = []
    for query in random_queries(dataset, 40, 30, seed=(0,)):
        sample = dataset[query]
        labels.append(int(sample["label"]))
        valid = sample["valid"][0].numpy()
        if labels[-1]:
            rows, columns = np.indices(valid.shape) + 0.5
            x, y = apply(sample["transform"], columns, rows)
            near = shapely.distance(shapely.points(x, y), shapely.Point(500_400, 4_999_600))
            assert (valid == (near < 150))[abs(near - 150) > 1].all()
        else:
            assert valid.all()
    assert set(labels) == {0, 1}


def test_a_changed_place_larger_than_the_patch_is_refused(
    dates: tuple[str, str], tmp_path: Path
) -> None:
    answers = write(tmp_path / "a.gpkg", [True], [cell(0, 0, 48)])
    dataset = ScenePairs([Scene(*dates, answers=answers)], keys={"image", "label"})
    (first, *_) = grid_queries(dataset, SIDE)
    with pytest.raises(DataError, match=r"whole changed place, found one of 48 x 48 .* of 32 x 32"):
        dataset[first]


def test_an_area_chooses_among_the_answers(dates: tuple[str, str], tmp_path: Path) -> None:
    area = geopandas.GeoDataFrame(geometry=[shapely.union_all(CELLS[:4])], crs=UTM33)
    area.to_crs("EPSG:4326").to_file(tmp_path / "area.geojson", engine="pyogrio")
    answers = write(tmp_path / "a.gpkg")
    dataset = ScenePairs([Scene(*dates, answers=answers, area=str(tmp_path / "area.geojson"))])
    assert [bool(dataset[q]["label"]) for q in grid_queries(dataset, SIDE)] == [True, False, True]


def test_a_table_names_whole_scenes(
    dates: tuple[str, str], tmp_path: Path, write_tif: WriteTif
) -> None:
    for folder in ("before", "after"):
        (tmp_path / folder).mkdir()
        for i in range(4):
            place = TRANSFORM @ Affine.translation(40 * i, 0)
            image = np.full((3, SIDE, SIDE), 10 + i, np.uint8)
            write_tif(tmp_path / folder / f"00{i}.tif", image, transform=place)
    lines = "name,changed\n000.tif,yes\n001,no\n002,\n003,1\n"
    (tmp_path / "tiles.csv").write_text(lines)
    before, after = str(tmp_path / "before"), str(tmp_path / "after")
    scene = Scene(before, after, answers=str(tmp_path / "tiles.csv"), name="town")
    dataset = ScenePairs(scene, keys={"image", "label"})
    found = {float(dataset[q]["image"].mean()): int(dataset[q]["label"])
             for q in grid_queries(dataset, SIDE)}  # fmt: skip
    assert found == {10: 1, 11: 0, 13: 1}


def test_scenes_of_one_name_in_two_folders_have_their_own_answers(
    dates: tuple[str, str], tmp_path: Path
) -> None:
    table = tmp_path / "tiles.csv"
    table.write_text("name,changed\neast/a.tif,yes\nwest/a.tif,no\na,\n")

    def answer(name: str) -> bool:
        scene = Scene(*dates, answers=str(table), name=name)
        (place,) = ScenePairs(scene, keys={"image", "label"}).places
        assert place.answer is not None
        return place.answer.changed

    assert answer("east/a")
    assert not answer("west/a")
    table.write_text(table.read_text() + "north/a.tif,yes\nnorth/a.png,no\n")
    with pytest.raises(DataError, match=r"expected one answer for north/a in .*found yes and no"):
        answer("north/a")


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (["east/a.tif,yes", "west/b.tif,no"], None),  # of other scenes
        (["A/a.tif,yes", "A/b.tif,no"], True),  # a folder that tells nothing apart
        (["/data/north/a.tif,yes", "/data/east/a.tif,no"], True),
        (["a.tif,yes", "east/a.tif,no"], True),
    ],
)
def test_an_answer_of_another_folder_is_not_taken(
    rows: list[str], found: bool | None, dates: tuple[str, str], tmp_path: Path
) -> None:
    table = tmp_path / "tiles.csv"
    table.write_text("\n".join(["name,changed", *rows]))
    scene = Scene(*dates, answers=str(table), name="north/a")
    if found is None:
        with pytest.raises(DataError, match="expected places in the scenes to draw patches from"):
            ScenePairs(scene, keys={"image", "label"})
        return
    (place,) = ScenePairs(scene, keys={"image", "label"}).places
    assert place.answer is not None
    assert place.answer.changed == found


def test_labels_without_answers_are_still_counted_from_masks(
    dates: tuple[str, str], tmp_path: Path, write_tif: WriteTif
) -> None:
    mask = np.zeros((ROWS * SIDE, COLUMNS * SIDE), np.uint8)
    mask[:SIDE, :SIDE] = 255
    path = str(write_tif(tmp_path / "m.tif", mask))
    answers = write(tmp_path / "a.gpkg", [not v for v in CHANGED])
    answered = Scene(*dates, labels=path, answers=answers)
    masked = ScenePairs([answered], keys={"image", "mask"})
    assert len(masked) == 1  # who asks for masks alone gets the whole scene
    both = ScenePairs([answered, Scene(*dates, labels=path)], keys={"image", "label"})
    assert len(both) == len(CELLS) + 1
    labels = [int(both[q]["label"]) for q in grid_queries(both, SIDE)]
    assert sum(labels) == sum(not v for v in CHANGED) + 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "left,changed\n1,yes\n", "expected columns changed and left, bottom"),
        ("a.csv", "name,changed\nt1,perhaps\n", "true or false .* found 'perhaps'"),
        ("a.csv", "name,changed\nother,yes\n", "found none of .*a.csv there"),
        ("a.csv", "left,bottom,right,top,changed\nx,1,2,3,yes\n", "expected a table of answers"),
        ("b.csv", None, "expected a table of answers, found no file at"),
    ],
)
def test_tables_that_say_nothing(
    dates: tuple[str, str], tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        ScenePairs([Scene(*dates, answers=str(tmp_path / name))], keys={"image", "label"})


def test_polygons_that_say_nothing(dates: tuple[str, str], tmp_path: Path) -> None:
    frame = geopandas.GeoDataFrame({"yes": [1]}, geometry=CELLS[:1], crs=UTM33)
    frame.to_file(tmp_path / "a.gpkg", engine="pyogrio")
    with pytest.raises(DataError, match="no column 'changed' in these answers"):
        ScenePairs([Scene(*dates, answers=str(tmp_path / "a.gpkg"))], keys={"image", "label"})
    empty = write(tmp_path / "b.gpkg", [None] * len(CELLS))
    with pytest.raises(DataError, match=r"found none of .*b\.gpkg there; check its CRS"):
        ScenePairs([Scene(*dates, answers=empty)], keys={"image", "label"})
    # nobody opens them where no label is wanted
    assert len(ScenePairs([Scene(*dates, answers="absent.gpkg")], keys={"image"})) == 1
