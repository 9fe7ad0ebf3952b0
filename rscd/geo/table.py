"""The columns that tables of polygons share: their types, and how far their numbers are rounded."""

from collections.abc import Iterable, Mapping
from typing import Any

import geopandas
import pandas as pd

from rscd.geo.columns import DAY
from rscd.geo.polygons import Polygons

COLUMNS: Mapping[str, Any] = {
    "id": "int64",
    "kind": "string",
    "class": "string",
    "name": "string",
    "score": "float64",
    "misreg": "float64",
    "reg_err_px": "float64",
    "iou": "float64",
    "iou_sum": "float64",
    "area_m2": "float64",
    "flags": "string",
    "layer": "string",
    "feature": "string",
    "t1": DAY,
    "t2": DAY,
    "model": "string",
    "pair": "string",
}
"""Types by name; a table holds some of them."""

DECIMALS: Mapping[str, int] = {
    "score": 4,
    "misreg": 4,
    "reg_err_px": 2,
    "iou": 4,
    "iou_sum": 6,
    "area_m2": 4,
}


def feature_table(
    columns: Mapping[str, Any] | pd.DataFrame,
    polygons: Polygons,
    crs: Any,
    own: Iterable[str] | None = None,
) -> geopandas.GeoDataFrame:
    """Polygons and what is known of them, in types that do not depend on their number.

    Args:
        columns: (N,) values or one for all, by name and in order.
        polygons: (N,) in units of the CRS.
        crs: theirs.
        own: which columns are those of `COLUMNS`: these get their type and are rounded, others stay
            as they are. Default: all.
    """
    table = pd.DataFrame(columns, index=pd.RangeIndex(len(polygons)))
    table = table.astype({name: COLUMNS[name] for name in own or table})
    for name in DECIMALS.keys() & set(own or table):
        table[name] = table[name].round(DECIMALS[name])
    return geopandas.GeoDataFrame(table, geometry=polygons, crs=crs)
