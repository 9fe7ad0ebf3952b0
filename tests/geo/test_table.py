"""Tables of polygons have the same types and decimals, whoever fills them."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import shapely
from numpy.typing import NDArray

from rscd.geo.table import COLUMNS, feature_table


def squares(count: int) -> NDArray[Any]:
    return np.array([shapely.box(i, 0, i + 1, 1) for i in range(count)], dtype=object)


@pytest.mark.parametrize("count", [0, 3])
def test_types_and_order_do_not_depend_on_the_number_of_rows(count: int) -> None:
    values = {"string": "x", "int64": 1, "float64": 2 / 3}
    columns = {name: values.get(kind) for name, kind in COLUMNS.items()}
    table = feature_table(columns, squares(count), "EPSG:32633")
    assert list(table.columns) == [*COLUMNS, "geometry"]
    assert [table[name].dtype for name in COLUMNS] == [
        pd.Series([], dtype=kind).dtype for kind in COLUMNS.values()
    ]
    assert table.crs == "EPSG:32633"
    assert len(table) == count


def test_numbers_are_rounded_as_their_column_says() -> None:
    table = feature_table(
        {"score": [2 / 3], "iou_sum": [2 / 3], "area_m2": np.nan}, squares(1), None
    )
    assert table["score"].tolist() == [0.6667]
    assert table["iou_sum"].tolist() == [0.666667]
    assert table["area_m2"].isna().all()


def test_columns_of_a_source_stay_as_they_are_whatever_their_name() -> None:
    columns = {"id": [7.0], "score": [2 / 3], "model": [5], "iou": [2 / 3]}
    table = feature_table(columns, squares(1), None, own=("id", "score"))
    assert table["id"].dtype == "int64"
    assert table["score"].tolist() == [0.6667]
    assert table["model"].tolist() == [5]
    assert table["iou"].tolist() == [2 / 3]
