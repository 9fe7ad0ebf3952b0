"""The columns of a review: one set of words and types, whatever format they come from."""

import datetime
from pathlib import Path
from typing import Any

import geopandas
import pandas as pd
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from rscd.base.errors import DataError
from rscd.geo.reviewed import COLUMNS, STATUSES, checked_review, instant, read_reviewed


def table(**columns: Any) -> geopandas.GeoDataFrame:
    count = max(map(len, columns.values()))
    columns = {"id": range(1, count + 1), **columns}
    return geopandas.GeoDataFrame(
        columns, geometry=[shapely.box(i, 0, i + 1, 1) for i in range(count)], crs="EPSG:32633"
    )


STORED = {
    "status": [*STATUSES, None],
    "note": ["</script>", None, "", "x", "y"],
    "reviewer": ["Ada", None, None, None, None],
    "time": ["2026-01-31T12:00:00Z", "2026-01-31T12:00:00.5+02:00", None, "1769860800000", None],
    "edited": [True, False, False, False, False],
}


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", ".parquet"])
def test_every_format_gives_the_same_columns(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"reviewed{suffix}"
    stored = table(**STORED)
    stored.to_parquet(path) if suffix == ".parquet" else stored.to_file(path)
    found = read_reviewed(path).sort_values("id")  # a spatial index reorders rows
    assert {name: str(found[name].dtype) for name in COLUMNS} == dict(COLUMNS)
    assert found["id"].dtype == "int64"
    assert found["status"].tolist() == [*STATUSES, "unreviewed"]
    assert found["note"].fillna("-").tolist() == ["</script>", "-", "-", "x", "y"]
    assert found["time"].fillna("-").tolist() == [
        *("2026-01-31T12:00:00.000Z", "2026-01-31T10:00:00.500Z"),
        *("-", "2026-01-31T12:00:00.000Z", "-"),
    ]
    assert found["edited"].tolist() == STORED["edited"]


def test_missing_columns_are_added_undecided() -> None:
    found = checked_review(table(score=[0.5, 0.7]), "change.gpkg")
    assert list(found.columns) == ["id", "score", "geometry", *COLUMNS]
    assert found["status"].tolist() == ["unreviewed"] * 2
    assert found["note"].isna().all()
    assert len(checked_review(table(score=[0.5])[:0], "change.gpkg")) == 0


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"status": ["maybe"]}, "accepted, rejected, unsure, unreviewed.*'maybe'"),
        ({"time": ["2026-01-31T12:00:00"]}, "2026-01-31T12:00:00Z.*'2026-01-31T12:00:00'"),
        ({"time": ["yesterday"]}, "'yesterday'; correct column time"),
        ({"id": [3, 3], "score": [0, 0]}, "every id once.*found 3"),
        ({"id": [1, None], "score": [0, 0]}, "found none for 1; number"),
        ({"id": [1.5]}, "found none for 1"),
        ({"id": ["a"]}, "whole numbers as id.*'a'"),
    ],
)
def test_values_that_are_none_are_refused(columns: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        checked_review(table(**columns), "change.gpkg")


def test_a_layer_without_status_is_refused_with_what_to_do(tmp_path: Path) -> None:
    table(score=[1.0]).to_file(tmp_path / "change.gpkg")
    with pytest.raises(DataError, match=r"column status.*found id, score; .*rscd review apply"):
        read_reviewed(tmp_path / "change.gpkg")
    table(score=[1.0]).drop(columns="id").to_file(tmp_path / "no_id.gpkg")
    with pytest.raises(DataError, match="column id"):
        checked_review(geopandas.read_file(tmp_path / "no_id.gpkg"), "no_id.gpkg")


@given(
    st.lists(
        st.datetimes(
            min_value=datetime.datetime(1970, 1, 2),
            timezones=st.sampled_from(
                [datetime.UTC, datetime.timezone(datetime.timedelta(hours=5.5))]
            ),
        ),
        min_size=2,
        max_size=2,
    )
)
def test_instants_sort_as_times(times: list[Any]) -> None:
    whole = [time.replace(microsecond=time.microsecond // 1000 * 1000) for time in times]
    texts = [instant(time.isoformat()) for time in whole]
    assert (texts[0] < texts[1]) == (whole[0] < whole[1])
    assert [instant(text) for text in texts] == texts
    assert pd.Timestamp(texts[0]) == whole[0]
    assert instant(str(round(whole[0].timestamp() * 1000))) == texts[0]
