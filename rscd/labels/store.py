"""Segmenter output on disk: one folder, only complete files, never mixed settings.

    STORE/
      claim.json                 prompts and fingerprint of the segmenter
      prob/NAME_1.tif            scores of t1 as uint8 GeoTIFF, one band per class
      instances/NAME_1.parquet   objects of t1 as GeoParquet polygons, if the model has objects
      log.jsonl                  one line per image done

Scores are kept in steps of 1/200, so that hundredths (such as a gamma of 0.8) keep their value;
labels are always derived from the stored values.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio.features
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import CRS

from rscd.base.claim import Claim, Earlier, alone
from rscd.base.errors import DataError
from rscd.base.files import appearing, digest_of, write_bytes, writing
from rscd.base.types import DateName, Provenance
from rscd.data.images import open_raster
from rscd.geo.encode import geotiff
from rscd.geo.grid import apply, stored_crs
from rscd.geo.polygons import geometries, moved
from rscd.geo.vectors import vector_border
from rscd.segmenters.instances import Instance, outline
from rscd.segmenters.segmenter import SemanticPrediction

log = logging.getLogger(__name__)

STEPS = 200
"""Levels of a stored score."""

EMPTY = 255
"""Stored value of pixels without image."""

TAG = "rscd_segmentation"
NUMBERS: Mapping[DateName, int] = {"t1": 1, "t2": 2}


@dataclass(frozen=True)
class Store:
    """A folder of segmentations that were all made with the same settings."""

    folder: Path
    digest: str
    """Hash of everything that affects the output."""
    classes: tuple[str, ...]
    n_foreground: int

    def prob_path(self, name: str, date: DateName) -> Path:
        """Path of the scores of one image."""
        return self.folder / "prob" / f"{name}_{NUMBERS[date]}.tif"

    def instances_path(self, name: str, date: DateName) -> Path:
        """Path of the objects of one image."""
        return self.folder / "instances" / f"{name}_{NUMBERS[date]}.parquet"

    def is_complete(self, name: str, date: DateName, source: Provenance) -> bool:
        """Whether this image was segmented with these settings and has not changed since."""
        tag = self._tag(name, date)
        return bool(tag.get("digest") == self.digest and tag.get("source") == source)

    def source(self, name: str, date: DateName) -> Provenance:
        """Identity of the image whose scores are here; empty where there are none."""
        found: Provenance = self._tag(name, date).get("source", {})
        return found

    def _tag(self, name: str, date: DateName) -> Provenance:
        """What is noted in the scores of an image; empty where there are none that can be read."""
        path = self.prob_path(name, date)
        if not path.is_file():
            return {}
        try:
            with open_raster(path) as dataset:
                tag: Provenance = json.loads(dataset.tags().get(TAG, "{}"))
                return tag
        except DataError as error:
            log.warning("%s; it is created again", error)
            return {}

    def write(
        self,
        name: str,
        date: DateName,
        prediction: SemanticPrediction,
        grid: GeoBox | None,
        source: Provenance,
    ) -> None:
        """Store one prediction; the scores are written last, so that their file means "complete".

        Args:
            name: of the pair; may include a folder, as in ``train/x``.
            date: of the image.
            prediction: of the whole image.
            grid: of the image; None or without CRS: pixel coordinates.
            source: identity of the image, for `is_complete`.

        Raises:
            OutputError: if the location cannot be written.
        """
        has_objects = prediction.instances is not None
        tag = {"digest": self.digest, "source": source, "instances": has_objects}
        with writing(self.prob_path(name, date)):
            if prediction.instances is not None:
                objects = BytesIO()
                self._table(prediction.instances, grid).to_parquet(objects)
                with appearing(_in_folder(self.instances_path(name, date))) as part:
                    write_bytes(part, objects.getvalue())
            with appearing(_in_folder(self.prob_path(name, date))) as part:
                write_bytes(part, _scores(prediction, grid, tag))

    def read(self, name: str, date: DateName) -> SemanticPrediction:
        """One prediction, its scores rounded to `STEPS`.

        Raises:
            DataError: if it is not in the store, or damaged.
        """
        with open_raster(self.prob_path(name, date)) as dataset:
            stored = dataset.read()
            has_objects = json.loads(dataset.tags()[TAG])["instances"]
            transform = dataset.transform
            if stored.dtype != np.uint8 or len(stored) != len(self.classes):
                raise ValueError(f"{len(stored)} bands of {stored.dtype}")
        valid = (stored != EMPTY).all(axis=0)
        prob = np.where(valid, stored, 0).astype(np.float32) / np.float32(STEPS)
        instances = None
        if has_objects:
            height, width = stored.shape[1:]
            path = self.instances_path(name, date)
            with vector_border("segmented objects in", path):
                table = geopandas.read_parquet(path)
                instances = _instances(table, transform, (height, width), len(self.classes))
        return SemanticPrediction(
            prob, self.classes, self.n_foreground, instances, None if valid.all() else valid
        )

    def grid(self, name: str, date: DateName) -> GeoBox:
        """Grid of one image; in pixel coordinates if it is not georeferenced."""
        with open_raster(self.prob_path(name, date)) as dataset:
            crs = None if dataset.crs is None else CRS.from_wkt(dataset.crs.to_wkt())
            return GeoBox(dataset.shape, dataset.transform, crs)

    def log(self, line: Provenance) -> None:
        """Record one image in ``log.jsonl``."""
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _table(self, instances: Any, grid: GeoBox | None) -> geopandas.GeoDataFrame:
        columns = {
            "instance_id": np.arange(1, len(instances) + 1),
            "class": [self.classes[i.class_index] for i in instances],
            "class_index": np.array([i.class_index for i in instances], int),
            "score": np.array([i.score for i in instances], float),
            "area_px": np.array([i.area_px for i in instances], int),
        }
        transform = Affine.identity() if grid is None else grid.affine
        geometry = moved(geometries(map(outline, instances)), transform)
        crs = None if grid is None else grid.crs
        return geopandas.GeoDataFrame(columns, geometry=geometry, crs=crs)


@contextmanager
def open_store(
    folder: Path,
    fingerprint: Provenance,
    classes: tuple[str, ...],
    n_foreground: int,
    *,
    overwrite: bool = False,
) -> Iterator[Store]:
    """Hold a store, new or continued, for as long as the context lasts.

    Args:
        folder: created if missing.
        fingerprint: everything that affects the output, as plain JSON data.
        classes: names of the bands.
        n_foreground: number of foreground classes.
        overwrite: delete the segmentations of a store that was made with other settings.

    Raises:
        OutputError: another run holds the folder, it has a store that was made otherwise, or it
            cannot be written.
        DataError: its note is damaged.
    """
    claim = Claim(
        folder,
        "segmentations",
        fingerprint,
        _made,
        "choose another folder with -o, or add --overwrite to begin anew",
        Earlier("manifest.json", lambda note: note.get("fingerprint", {})),
    )
    with alone(folder):
        claim.take(overwrite=overwrite)
        yield Store(folder, digest_of(fingerprint), classes, n_foreground)


def _made(folder: Path) -> list[Path]:
    """What a store holds; nothing else of its folder is touched.

    A run that failed before anything was segmented binds nobody to its settings.
    """
    if not any((folder / "prob").rglob("*.tif")):
        return []
    names = ("prob", "instances", "log.jsonl", "run.json")
    return [folder / name for name in names if (folder / name).exists()]


def _instances(
    table: geopandas.GeoDataFrame, transform: Affine, shape_hw: tuple[int, int], n_classes: int
) -> list[Instance]:
    back = ~transform
    found = []
    for row in table.itertuples():
        if not (0 <= row.class_index < n_classes and 0 <= row.score <= 1):
            raise ValueError(f"an object of class {row.class_index} and score {row.score}")
        pixels = shapely.transform(row.geometry, lambda p: np.stack(apply(back, *p.T), axis=1))
        x0, y0, x1, y1 = (round(value) for value in pixels.bounds)
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, shape_hw[1]), min(y1, shape_hw[0])
        mask = rasterio.features.rasterize(
            [pixels], (y1 - y0, x1 - x0), transform=Affine.translation(x0, y0), dtype="uint8"
        )
        found.append(Instance(row.class_index, row.score, (x0, y0, x1, y1), mask == 1))
    return found


def _scores(prediction: SemanticPrediction, grid: GeoBox | None, tag: Provenance) -> bytes:
    stored = np.rint(prediction.prob * STEPS).astype(np.uint8)
    if prediction.valid is not None:
        stored[:, ~prediction.valid] = EMPTY
    count, height, width = stored.shape
    options: dict[str, Any] = {"compress": "deflate", "photometric": "minisblack", "alpha": "no"}
    if grid is not None and not grid.affine.is_identity:
        options |= {"transform": grid.affine, "crs": stored_crs(grid)}

    def fill(out: Any) -> None:
        out.write(stored)
        out.scales = (1 / STEPS,) * count
        out.descriptions = prediction.classes
        out.update_tags(**{TAG: json.dumps(tag)})

    shape = {"count": count, "height": height, "width": width}
    return geotiff(fill, **shape, dtype="uint8", nodata=EMPTY, **options)


def _in_folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def source_of(path: Path) -> Provenance:
    """Identity of an image file: size and modification time."""
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path}: expected an image, found none; check the folder") from error
    return {"file": path.name, "bytes": found.st_size, "mtime_ns": found.st_mtime_ns}
