"""What notebooks call: images in whatever form, and a result that shows itself."""

import html
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, overload

import numpy as np
import shapely
from affine import Affine

from rscd.base.arguments import check_kind, check_names
from rscd.base.errors import UsageError
from rscd.base.extras import missing_extra
from rscd.base.place import local_file
from rscd.base.redact import redacted
from rscd.base.scratch import Scratch
from rscd.base.types import CHANGE_RGB, DateName, Progress, silent
from rscd.export.outputs import RASTER_SUFFIXES, is_vector
from rscd.export.stretch import Stretch
from rscd.export.targets import Outputs, StrPath, outputs_of
from rscd.export.upload import target_address
from rscd.geo.area import Area
from rscd.geo.arrays import Image
from rscd.geo.grid import apply
from rscd.geo.scene import ScenePair
from rscd.geo.vectors import read_layer
from rscd.inference.tiled import Mapper
from rscd.pipeline import maps
from rscd.pipeline.maps import Result, open_pair
from rscd.pipeline.run import Options, options_of

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from matplotlib.figure import Figure
    from xarray import DataArray

PANEL_PX = 1024
"""Longest side of a panel of `Prediction.plot`; larger scenes are subsampled."""


@dataclass(frozen=True)
class _Files:
    """What a result was made from, and where its parts lie on this machine."""

    pair: ScenePair
    polygons: Path | None
    mask: Path | None
    prob: Path | None
    kept: Scratch | None
    """Owner of these files, where nobody asked for any."""


class Prediction(Result):
    """A `Result` that reads what was written when it is asked for; until then nothing is loaded.

    Where no outputs were asked for, polygons, mask and probabilities lie in a temporary folder that
    lives as long as this object and the arrays taken from it.
    """

    _files: ClassVar[_Files]

    @classmethod
    def of(cls, result: Result, files: _Files) -> "Prediction":
        """A result together with its files."""
        made = cls(**vars(result))
        object.__setattr__(made, "_files", files)
        return made

    @property
    def pair(self) -> ScenePair:
        """Both dates, as they were compared but for ``register``."""
        return self._files.pair

    @cached_property
    def polygons(self) -> "GeoDataFrame":
        """Change polygons with their columns, in the CRS of the file they were written to.

        Raises:
            UsageError: there are none among the outputs on this machine.
        """
        path = self._asked(self._files.polygons, "polygons", "change.gpkg among the outputs")
        table: GeoDataFrame = read_layer(path, "change polygons in").reset_index(drop=True)
        return table

    @property
    def mask(self) -> "DataArray":
        """(y, x) uint8 on the grid of the result: 0 no change, 1 change, 255 no data; lazy.

        Raises:
            UsageError: there is none among the outputs on this machine.
        """
        from rscd.geo.lazy import lazy_array

        path = self._asked(self._files.mask, "a mask", "change.tif among the outputs")
        return lazy_array(path, self.pair.grid, "mask", self._files.kept)

    @property
    def prob(self) -> "DataArray":
        """(y, x) float32 on the grid of the result: probability in [0,1], NaN no data; lazy.

        Raises:
            UsageError: there are none among the outputs on this machine.
        """
        from rscd.geo.lazy import lazy_array

        path = self._asked(self._files.prob, "probabilities", "prob='prob.tif'")
        return lazy_array(path, self.pair.grid, "prob", self._files.kept)

    def plot(self, size_px: int = PANEL_PX) -> "Figure":
        """Before, after, and the change outlined on the later date.

        Args:
            size_px: most pixels along a side of a panel; larger scenes are read from overviews.

        Returns:
            A figure that pyplot does not manage; ``figure.savefig`` writes it.

        Raises:
            ModelError: matplotlib is not installed.
            UsageError: there are neither polygons nor a mask among the outputs.
        """
        try:
            from matplotlib.collections import LineCollection

            from rscd.data.plots import new_figure, without_ticks
        except ModuleNotFoundError as error:
            raise missing_extra(error) or error from error
        height, width = self.pair.shape_hw
        step = -(-max(height, width) // size_px)
        size = -(-height // step), -(-width // step)
        image, _ = self.pair.thumbnail(size)
        t1, t2 = (Stretch.of(date).apply(date) for date in image)
        figure = new_figure(12.0, 0.4 + 4.0 * height / width)
        axes = figure.subplots(1, 3)
        for axis, picture, title in zip(
            axes, (t1, t2, t2), ("before", "after", "change"), strict=True
        ):
            axis.imshow(picture, extent=(0, width, height, 0))
            axis.set_title(title)
        colour = tuple(value / 255 for value in CHANGE_RGB)
        if self._files.polygons is None:
            thinned = self.mask[::step, ::step].to_numpy() == 1
            overlay = np.zeros((*thinned.shape, 4), np.float32)
            overlay[thinned] = (*colour, 0.7)
            axes[2].imshow(overlay, extent=(0, width, height, 0))
        else:
            axes[2].add_collection(
                LineCollection(self._outlines(), colors=[colour], linewidths=1.2)
            )
        without_ticks(axes)
        return figure

    def explore(self, **options: Any) -> Any:
        """An interactive map of the polygons.

        Args:
            **options: of `geopandas.GeoDataFrame.explore`.

        Returns:
            A `folium.Map`, which notebooks show.

        Raises:
            ModelError: folium is not installed: ``pip install 'rscd[notebooks]'``.
            UsageError: there are no polygons among the outputs, or none were found.
        """
        try:
            import folium  # noqa: F401
            import mapclassify  # noqa: F401
            import matplotlib  # noqa: F401
        except ModuleNotFoundError as error:
            raise missing_extra(error) or error from error
        if not len(self.polygons):
            raise UsageError("expected polygons for a map, found no change in this result")
        if self.polygons.crs is None:
            raise UsageError(
                "expected polygons with a CRS for a map, found ones of pictures without place; "
                "use .plot()"
            )
        return self.polygons.explore(**options)

    def _repr_html_(self) -> str:
        """What a notebook shows: a table of the figures that count."""
        area = self.area_m2
        rows = {
            "model": self.model,
            "threshold": f"{self.threshold:.3g}",
            "polygons": "not asked for" if self.n_polygons is None else f"{self.n_polygons:,}",
            "changed area": "unknown pixel size" if area is None else f"{area:,.0f} m²",
            "changed pixels": f"{self.changed_pixels:,} of {self.valid_pixels:,}",
            "grid": self.alignment["grid"],
            "t1": self.alignment["t1"],
            "t2": self.alignment["t2"],
            "outputs": ", ".join(map(redacted, self.outputs))
            or "none asked for: kept while this result is",
            "seconds": f"{self.seconds:.1f}",
        }
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(str(value))}</td></tr>"
            for name, value in rows.items()
        )
        return f"<table><caption>rscd: what changed</caption>{cells}</table>"

    def _outlines(self) -> list[Any]:
        """Rings of the polygons in columns and rows of the grid, (n,2) each."""
        grid, table = self.pair.grid, self.polygons
        if grid.crs is not None and table.crs is not None and table.crs != grid.crs:
            table = table.to_crs(grid.crs.to_wkt())
        rings = shapely.get_rings(shapely.get_parts(table.geometry.to_numpy()))
        inverse = ~grid.affine
        points = (shapely.get_coordinates(ring).T for ring in rings)
        return [np.column_stack(apply(inverse, x, y)) for x, y in points]

    def _asked(self, path: Path | None, what: str, how: str) -> Path:
        if path is None:
            raise UsageError(
                f"expected {what} among the files written here, found "
                f"{', '.join(map(redacted, self.outputs))}; ask for {how}, or for no outputs"
            )
        return path


@overload
def predict(
    pair: ScenePair,
    outputs: Outputs = (),
    options: Options | None = None,
    *,
    prob: StrPath | None = None,
    preview: StrPath | None = None,
    flow: StrPath | None = None,
    dissimilarity: StrPath | None = None,
    objects: Mapping[DateName, StrPath | None] | None = None,
    project: StrPath | None = None,
    mapper: Mapper | None = None,
    progress: Progress = silent,
) -> Prediction: ...


@overload
def predict(
    t1: Image,
    t2: Image,
    outputs: Outputs = (),
    options: Options | None = None,
    *,
    area: Area | None = None,
    gsd_m: float | None = None,
    transform: Affine | None = None,
    crs: Any = None,
    prob: StrPath | None = None,
    preview: StrPath | None = None,
    flow: StrPath | None = None,
    dissimilarity: StrPath | None = None,
    objects: Mapping[DateName, StrPath | None] | None = None,
    project: StrPath | None = None,
    mapper: Mapper | None = None,
    progress: Progress = silent,
) -> Prediction: ...


def predict(*images: Any, **named_arguments: Any) -> Prediction:
    """Find what changed: ``predict(t1, t2, outputs, options)`` or ``predict(pair, outputs, ...)``.

    Args:
        *images: two images as `open_pair` takes them, or the pair that it returns; then the outputs
            (files to write, or addresses to upload them to; the suffix is the format; None: no
            files) and `Options`. Without outputs all results are kept as long as what is returned.
        **named_arguments: those of `open_pair` for images (``area``, ``gsd_m``, ``transform``,
            ``crs``), and those of `rscd.pipeline.maps.predict`: ``prob``, ``preview``, ``project``
            and others name further files.

    Returns:
        What was found; see `Prediction`.

    Raises:
        RscdError: anything the user must fix; no new output exists then.
    """
    options = {field.name for field in fields(Options)} - {"gsd_m"}  # is one of the pair as well
    for name in named_arguments:
        if name in options:
            raise UsageError(
                f"expected {name} among the options, found it beside them; predict(t1, t2, "
                f"outputs, Options({name}=...))"
            )
    of_pair = "pair" in named_arguments or (images and isinstance(images[0], ScenePair))
    takes: Callable[..., Prediction] = _predict_pair if of_pair else _predict_images
    try:
        more = inspect.signature(takes).bind(*images, **named_arguments).arguments.get("more", {})
    except TypeError as error:
        raise UsageError(
            "expected predict(t1, t2, outputs, options) or predict(pair, outputs, options), found "
            f"{error}"
        ) from None
    known = [*_names(takes), *_names(maps.predict)]
    check_names(more, known, "arguments of predict, which takes all others within Options")
    return takes(*images, **named_arguments)


def _names(function: Callable[..., Any]) -> list[str]:
    """Arguments that are given by name alone."""
    parameters = inspect.signature(function).parameters.values()
    return [one.name for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY]


def _predict_images(
    t1: Image = None,
    t2: Image = None,
    outputs: Outputs = (),
    options: Options | None = None,
    *,
    area: Area | None = None,
    gsd_m: float | None = None,
    transform: Affine | None = None,
    crs: Any = None,
    **more: Any,
) -> Prediction:
    pair = open_pair(t1, t2, options, area, gsd_m=gsd_m, transform=transform, crs=crs)
    return _predict_pair(pair, outputs, options, **more)


def _predict_pair(
    pair: ScenePair,
    outputs: Outputs = (),
    options: Options | None = None,
    **more: Any,
) -> Prediction:
    check_kind(pair, ScenePair, "pair")
    options = options_of(options)
    asked = outputs_of(outputs)
    kept: Scratch | None = None
    extra = ("prob", "preview", "flow", "dissimilarity", "objects", "project")
    if not asked and not any(more.get(name) for name in extra):
        kept = Scratch()
        asked = [kept.folder / "change.gpkg", kept.folder / "change.tif"]
        more["prob"] = kept.folder / "prob.tif"
        if pair.grid.crs is None:
            options = replace(options, pixel_coordinates=True)
    result = maps.predict(pair, asked, options, **more)
    here = [path for path in map(_here, asked) if path is not None]
    files = _Files(
        pair,
        next(filter(is_vector, here), None),
        next((path for path in here if path.suffix.lower() in RASTER_SUFFIXES), None),
        None if more.get("prob") is None else _here(more["prob"]),
        kept,
    )
    return Prediction.of(result if kept is None else replace(result, outputs=[]), files)


def _here(path: StrPath) -> Path | None:
    """The file of an output; None of one that was uploaded."""
    if target_address(path) is not None:
        return None
    return (local_file(path) or Path(path)).absolute()
