"""GDAL's virtual rasters, as the XML that `rasterio.open` takes in place of a path."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from affine import Affine
from rasterio.dtypes import dtype_rev, typename_fwd

from rscd.base.types import ShapeHW

COLOURS = {
    **{name: name.title() for name in ("red", "green", "blue", "yellow", "coastal", "alpha")},
    **{"rededge": "RedEdge", "nir": "NIR", "swir": "SWIR", "mwir": "MWIR", "lwir": "LWIR"},
    **{"tir": "TIR", "pan": "Pan", "gray": "Gray"},
}
"""Names of colour interpretations in a VRT."""


@dataclass(frozen=True)
class VrtBand:
    """A band, and the one in another raster that it shows."""

    path: str
    number: int
    """1-based, in that raster."""
    dtype: str
    """As rasterio names it."""
    name: str = ""
    colour: str = ""
    """As rasterio names it; empty: undefined."""
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None


def vrt(
    shape_hw: ShapeHW,
    transform: Affine,
    bands: Sequence[VrtBand],
    *,
    wkt: str | None = None,
    tags: Mapping[str, str] | None = None,
    masked: str | None = None,
) -> str:
    """XML of a VRT of bands from rasters of one grid.

    Args:
        shape_hw: of all rasters.
        transform: from pixels to the CRS.
        bands: in their order.
        wkt: of the CRS.
        tags: metadata.
        masked: raster whose own mask is that of the VRT.
    """
    texts = [_band(band, number) for number, band in enumerate(bands, 1)]
    if tags:
        items = (f"<MDI key={quoteattr(k)}>{escape(v)}</MDI>" for k, v in tags.items())
        texts.insert(0, f"<Metadata>{''.join(items)}</Metadata>")
    if wkt is not None:
        axes = "1,2"  # x before y, as in the transform, whatever the CRS says
        texts.insert(0, f'<SRS dataAxisToSRSAxisMapping="{axes}">{escape(wkt)}</SRS>')
    if masked is not None:
        mask = _source(masked, "mask,1")
        texts.append(f'<MaskBand><VRTRasterBand dataType="Byte">{mask}</VRTRasterBand></MaskBand>')
    numbers = ",".join(map(repr, transform.to_gdal()))
    return (
        f'<VRTDataset rasterXSize="{shape_hw[1]}" rasterYSize="{shape_hw[0]}">'
        f"<GeoTransform>{numbers}</GeoTransform>{''.join(texts)}</VRTDataset>"
    )


def _band(band: VrtBand, number: int) -> str:
    known = [
        f"<Description>{escape(band.name)}</Description>" if band.name else "",
        f"<ColorInterp>{COLOURS[band.colour]}</ColorInterp>" if band.colour in COLOURS else "",
        f"<Offset>{band.offset!r}</Offset>" if band.offset else "",
        f"<Scale>{band.scale!r}</Scale>" if band.scale != 1 else "",
        "" if band.nodata is None else f"<NoDataValue>{band.nodata!r}</NoDataValue>",
    ]
    kind = typename_fwd[dtype_rev[band.dtype]]
    return (
        f'<VRTRasterBand dataType="{kind}" band="{number}">{"".join(known)}'
        f"{_source(band.path, str(band.number))}</VRTRasterBand>"
    )


def _source(path: str, band: str) -> str:
    return (
        f'<SimpleSource><SourceFilename relativeToVRT="0">{escape(path)}</SourceFilename>'
        f"<SourceBand>{band}</SourceBand></SimpleSource>"
    )
