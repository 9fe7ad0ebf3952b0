"""GDAL's virtual rasters, as the XML that `rasterio.open` takes in place of a path."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from affine import Affine
from rasterio.dtypes import dtype_rev, typename_fwd

from rscd.base.types import ShapeHW
from rscd.geo.tiles import Box

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
    window: Box | None = None
    """Part of that raster that fills the VRT; None: all of it."""
    relative: bool = False
    """Whether the path begins in the folder of the VRT."""
    gain: float = 1.0
    """Values are shown as stored value x gain + bias."""
    bias: float = 0.0


@dataclass(frozen=True)
class VrtMask:
    """What tells where another raster holds data: 0 where it does not."""

    path: str
    band: str = "mask,1"
    """Its own mask, or the number of an alpha band."""
    window: Box | None = None
    relative: bool = False


def vrt(
    shape_hw: ShapeHW,
    transform: Affine,
    bands: Sequence[VrtBand],
    *,
    wkt: str | None = None,
    tags: Mapping[str, str] | None = None,
    masks: Sequence[VrtMask] = (),
) -> str:
    """XML of a VRT of bands from rasters of one grid.

    Args:
        shape_hw: of all rasters.
        transform: from pixels to the CRS.
        bands: in their order.
        wkt: of the CRS.
        tags: metadata.
        masks: the VRT holds data where all of these do; none: where no band has its nodata.
    """
    texts = [_band(band, number) for number, band in enumerate(bands, 1)]
    if tags:
        items = (f"<MDI key={quoteattr(k)}>{escape(v)}</MDI>" for k, v in tags.items())
        texts.insert(0, f"<Metadata>{''.join(items)}</Metadata>")
    if wkt is not None:
        axes = "1,2"  # x before y, as in the transform, whatever the CRS says
        texts.insert(0, f'<SRS dataAxisToSRSAxisMapping="{axes}">{escape(wkt)}</SRS>')
    if masks:
        sources = "".join(_source(one.path, one.band, one.window, one.relative) for one in masks)
        several = ' subClass="VRTDerivedRasterBand"' if len(masks) > 1 else ""
        product = "<PixelFunctionType>mul</PixelFunctionType>" if several else ""
        texts.append(
            f'<MaskBand><VRTRasterBand dataType="Byte"{several}>{product}{sources}'
            "</VRTRasterBand></MaskBand>"
        )
    numbers = ",".join(map(repr, transform.to_gdal()))
    return (
        f'<VRTDataset rasterXSize="{shape_hw[1]}" rasterYSize="{shape_hw[0]}">'
        f"<GeoTransform>{numbers}</GeoTransform>{''.join(texts)}</VRTDataset>"
    )


def bent_vrt(
    path: str,
    bands: Sequence[tuple[int, str]],
    shape_hw: ShapeHW,
    transform: Affine,
    ties: Sequence[tuple[float, float, float, float]],
    *,
    wkts: tuple[str, str] | None,
    nodata: float | None,
    alpha: int | None,
    block_hw: ShapeHW,
    tolerance_px: float,
) -> str:
    """XML of a VRT of a raster that is bent between points on the ground (a thin plate).

    Args:
        path: of the raster, or the XML of a VRT.
        bands: number in that raster and type of each.
        shape_hw: of the VRT, in whose last band stands where there is data.
        transform: of the VRT.
        ties: column and row in the raster, x and y in its CRS, of each point.
        wkts: the CRSs of the raster and of the VRT; None where they are the same.
        nodata: a pixel with this value in every band holds no data.
        alpha: number of the raster's alpha band.
        block_hw: in which it is computed.
        tolerance_px: error of the approximate transformation.
    """
    kinds = [typename_fwd[dtype_rev[dtype]] for _, dtype in bands]
    layers = [
        f'<VRTRasterBand dataType="{kind}" band="{number}" subClass="VRTWarpedRasterBand"/>'
        for number, kind in enumerate(kinds, 1)
    ]
    last = len(bands) + 1
    layers.append(
        f'<VRTRasterBand dataType="{kinds[0]}" band="{last}" subClass="VRTWarpedRasterBand">'
        "<ColorInterp>Alpha</ColorInterp></VRTRasterBand>"
    )
    numbers, inverse = (",".join(map(repr, t.to_gdal())) for t in (transform, ~transform))
    points = "".join(
        f'<GCP Id="" Pixel="{col!r}" Line="{row!r}" X="{x!r}" Y="{y!r}"/>'
        for col, row, x, y in ties
    )
    carried = ""
    if wkts is not None:
        source, target = map(escape, wkts)
        carried = (
            "<ReprojectTransformer><ReprojectionTransformer>"
            f"<SourceSRS>{source}</SourceSRS><TargetSRS>{target}</TargetSRS>"
            "</ReprojectionTransformer></ReprojectTransformer>"
        )
    empty = "" if nodata is None else f"<SrcNoDataReal>{nodata!r}</SrcNoDataReal>"
    mapped = "".join(
        f'<BandMapping src="{band}" dst="{number}">{empty}</BandMapping>'
        for number, (band, _) in enumerate(bands, 1)
    )
    alphas = "" if alpha is None else f"<SrcAlphaBand>{alpha}</SrcAlphaBand>"
    return (
        f'<VRTDataset rasterXSize="{shape_hw[1]}" rasterYSize="{shape_hw[0]}" '
        f'subClass="VRTWarpedDataset"><GeoTransform>{numbers}</GeoTransform>{"".join(layers)}'
        f"<BlockXSize>{block_hw[1]}</BlockXSize><BlockYSize>{block_hw[0]}</BlockYSize>"
        "<GDALWarpOptions><ResampleAlg>Bilinear</ResampleAlg>"
        '<Option name="INIT_DEST">0</Option><Option name="UNIFIED_SRC_NODATA">YES</Option>'
        f'<SourceDataset relativeToVRT="0">{escape(path)}</SourceDataset>'
        f"<Transformer><ApproxTransformer><MaxError>{tolerance_px!r}</MaxError>"
        "<BaseTransformer><GenImgProjTransformer><SrcTPSTransformer><TPSTransformer>"
        f"<Reversed>0</Reversed><GCPList>{points}</GCPList></TPSTransformer></SrcTPSTransformer>"
        f"{carried}<DstGeoTransform>{numbers}</DstGeoTransform>"
        f"<DstInvGeoTransform>{inverse}</DstInvGeoTransform></GenImgProjTransformer>"
        "</BaseTransformer></ApproxTransformer></Transformer>"
        f"<BandList>{mapped}</BandList>{alphas}<DstAlphaBand>{last}</DstAlphaBand>"
        "</GDALWarpOptions></VRTDataset>"
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
    source = _source(band.path, str(band.number), band.window, band.relative, band.gain, band.bias)
    return (
        f'<VRTRasterBand dataType="{kind}" band="{number}">{"".join(known)}{source}</VRTRasterBand>'
    )


def _source(
    path: str,
    band: str,
    window: Box | None = None,
    relative: bool = False,
    gain: float = 1.0,
    bias: float = 0.0,
) -> str:
    kind, how = "SimpleSource", ""
    if (gain, bias) != (1.0, 0.0):
        kind = "ComplexSource"
        how = f"<ScaleOffset>{bias!r}</ScaleOffset><ScaleRatio>{gain!r}</ScaleRatio>"
    part = ""
    if window is not None:
        size = f'xSize="{window.width}" ySize="{window.height}"'
        part = (
            f'<SrcRect xOff="{window.col}" yOff="{window.row}" {size}/>'
            f'<DstRect xOff="0" yOff="0" {size}/>'
        )
    return (
        f'<{kind}><SourceFilename relativeToVRT="{relative:d}">{escape(path)}</SourceFilename>'
        f"<SourceBand>{band}</SourceBand>{part}{how}</{kind}>"
    )
