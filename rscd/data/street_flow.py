"""Street pairs whose flow is stored, in place of generated ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from rscd.base.border import border, reason
from rscd.base.errors import DataError
from rscd.base.files import by_stem, natural_key
from rscd.base.types import BoolArray, FloatArray, ShapeHW
from rscd.data.folder import Sample, Transform
from rscd.data.images import IMAGE_SUFFIXES
from rscd.data.street_base import StreetDataset, StreetPair, side_by_side

FLOW_SUFFIXES = (".flo", ".npy", ".png")
KITTI_ZERO, KITTI_STEP = 32768.0, 64.0
"""KITTI's flow PNG: 16-bit value = 64 flow + 32768, third channel 1 where known."""


class FlowPairs(StreetDataset):
    """Pairs with flow from t2 to t1 in pixels, as `rscd.synthetic.street_pairs` generates them.

    Besides the keys of `StreetDataset`: ``flow`` (2,H,W) float32, channel 0 = x, 0 where it is not
    known; ``valid`` (1,H,W) bool, known and inside t1; ``use_flow`` () float32 1. Sparse flow
    needs ``mask_flow_loss: true`` of `rscd.methods.scene`, or zeros are learned.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        keys: set[str] | frozenset[str] = frozenset({"image", "mask", "flow", "valid"}),
        size: ShapeHW | None = None,
        only: Mapping[str, Any] | None = None,
        transforms: Transform | None = None,
    ) -> None:
        """Find the pairs.

        Args:
            root: contains ``t0/ t1/ mask/ flow/`` with files of the same names, or SimSaC's
                ``image/{ref,query}/KIND/``, ``mask/query/KIND/`` and ``flow/KIND/``. Flow files are
                ``.flo``, ``.npy`` (2,H,W) or (H,W,2) with NaN where unknown, or KITTI's ``.png``.
            keys: see the class; without ``mask`` and ``label`` no mask is opened.
            size: (height, width) to resize to; flow is scaled with it.
            only: see `StreetDataset`.
            transforms: applied to each sample.

        Raises:
            DataError: if nothing is found, or a pair lacks its flow or mask.
        """
        root = Path(root)
        pairs, self.flows = _simsac(root) if (root / "image" / "ref").is_dir() else _plain(root)
        if not pairs:
            raise DataError(
                f"{root}: no pairs with flow; expected t0/ t1/ mask/ flow/, or image/ref, "
                "image/query, mask/query and flow with a folder for each kind of change"
            )
        missing = [pair.name for pair in pairs if pair.name not in self.flows]
        if missing:
            raise DataError(
                f"{root}: {len(missing)} pairs have no flow file ({', '.join(FLOW_SUFFIXES)}), "
                f"first {missing[0]!r}; add the files"
            )
        self.flow_keys = frozenset(keys) & {"flow", "valid", "use_flow"}
        super().__init__(pairs, keys=frozenset(keys) - self.flow_keys, size=size, only=only)
        self.whole = transforms

    def __getitem__(self, index: int) -> Sample:
        """Read one sample.

        Raises:
            DataError: if a file is damaged, or flow and images differ in size.
        """
        sample = super().__getitem__(index)
        if self.flow_keys & {"flow", "valid"}:
            path = self.flows[self.pairs[index].name]
            flow, known = read_flow(path)
            if self.size is not None:
                flow, known = resized_flow(flow, known, self.size)
            for key in sample.keys() & {"image", "mask"}:
                if tuple(sample[key].shape[-2:]) != known.shape:
                    raise DataError(
                        f"{path}: the flow is {known.shape[0]} x {known.shape[1]} pixels (height x "
                        f"width), the {key} has another size; make both one size"
                    )
            sample["flow"] = torch.from_numpy(flow)
            sample["valid"] = torch.from_numpy((known & inside_frame(flow))[None])
        sample["use_flow"] = torch.tensor(1.0)
        kept = self.keys | self.flow_keys | {"name"}
        sample = {key: value for key, value in sample.items() if key in kept}
        return self.whole(sample) if self.whole is not None else sample


def read_flow(path: Path) -> tuple[FloatArray, BoolArray]:
    """Flow of a file.

    Returns:
        (2,H,W) float32 in pixels, x first, 0 where unknown; (H,W) whether it is known.

    Raises:
        DataError: if the file is missing, damaged or of another format.
    """

    def unusable(error: Exception) -> DataError:
        return DataError(
            f"{path}: expected flow (.flo, .npy of 2 channels, or KITTI's 16-bit .png), found: "
            f"{reason(error)}; write it again"
        )

    with border(unusable):
        field, known = _stored_flow(path)
        known = known & np.isfinite(field).all(axis=2)
    flow = np.where(known, np.moveaxis(field, 2, 0), 0).astype(np.float32)
    return flow, known


def _stored_flow(path: Path) -> tuple[NDArray[Any], BoolArray]:
    """(H,W,2) as stored and (H,W) whether it is marked as known."""
    if path.suffix == ".npy":
        stored = np.load(path, allow_pickle=False)
        field = np.moveaxis(stored, 0, 2) if stored.ndim == 3 and stored.shape[2] != 2 else stored
    elif path.suffix == ".flo":
        field = cv2.readOpticalFlow(str(path))
    else:
        bgr = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if bgr is None or bgr.dtype != np.uint16 or bgr.ndim != 3:
            raise ValueError("no 16-bit colour picture")
        return (bgr[..., :0:-1].astype(np.float64) - KITTI_ZERO) / KITTI_STEP, bgr[..., 0] > 0
    if field is None or field.ndim != 3 or field.shape[2] != 2:
        raise ValueError(f"an array of shape {None if field is None else field.shape}")
    return field, np.ones(field.shape[:2], bool)


def resized_flow(flow: FloatArray, known: BoolArray, size: ShapeHW) -> tuple[FloatArray, BoolArray]:
    """Flow on another grid, in its pixels: bilinear if known everywhere, else nearest."""
    how = cv2.INTER_LINEAR if known.all() else cv2.INTER_NEAREST
    (height, width), (rows, columns) = known.shape, size
    scales = (columns / width, rows / height)
    planes = [
        cv2.resize(plane, (columns, rows), interpolation=how) * scale
        for plane, scale in zip(flow, scales, strict=True)
    ]
    mask = cv2.resize(known.astype(np.uint8), (columns, rows), interpolation=cv2.INTER_NEAREST)
    return np.stack(planes).astype(np.float32), mask > 0


def inside_frame(flow: FloatArray) -> BoolArray:
    """(H,W): where p + flow(p) lies inside the frame of t1."""
    height, width = flow.shape[1:]
    rows, columns = np.mgrid[:height, :width]
    x, y = columns + flow[0], rows + flow[1]
    inside: BoolArray = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return inside


def _plain(root: Path) -> tuple[list[StreetPair], dict[str, Path]]:
    folder = root / "flow"
    flows = by_stem(folder, FLOW_SUFFIXES) if folder.is_dir() else {}
    return side_by_side(root, lambda name: name), flows


def _simsac(root: Path) -> tuple[list[StreetPair], dict[str, Path]]:
    pairs: list[StreetPair] = []
    flows: dict[str, Path] = {}
    for kind in sorted((root / "image" / "ref").iterdir()):
        later = by_stem(root / "image" / "query" / kind.name, IMAGE_SUFFIXES)
        masks = by_stem(root / "mask" / "query" / kind.name, IMAGE_SUFFIXES)
        own = by_stem(root / "flow" / kind.name, FLOW_SUFFIXES)
        for stem, first in sorted(
            by_stem(kind, IMAGE_SUFFIXES).items(), key=lambda x: natural_key(x[0])
        ):
            if stem not in later:
                raise DataError(f"{first}: the query image of this name is missing; add the file")
            name = f"{kind.name}/{stem}"
            pairs.append(StreetPair(name, first, later[stem], masks.get(stem), kind.name))
            if stem in own:
                flows[name] = own[stem]
    return pairs, flows
