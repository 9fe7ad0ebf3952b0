"""Land-cover classes of towns, and materials with colour, season and texture.

Colours are sRGB (0-255) as in a sunlit, haze-free aerial image, chosen by comparison with public
half-metre imagery; the near-infrared number is a linear reflectance in [0,1].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from rscd.base.types import FloatArray

RGB = tuple[int, int, int]

_COVERS: Mapping[str, RGB] = {
    "unknown": (0, 0, 0),
    "grass": (154, 188, 96),
    "crop": (222, 206, 120),
    "tree": (52, 110, 60),
    "bare": (176, 140, 104),
    "water": (72, 126, 190),
    "road": (110, 110, 114),
    "paved": (186, 182, 176),
    "building": (196, 70, 62),
}
LAND_COVER: Mapping[str, int] = MappingProxyType({name: i for i, name in enumerate(_COVERS)})
"""Class name -> value of the land-cover rasters; 0 does not occur."""
LAND_COVER_COLOURS: Mapping[int, RGB] = MappingProxyType(dict(enumerate(_COVERS.values())))


@dataclass(frozen=True)
class Material:
    """One kind of surface.

    An object's ``hue`` in [0,1] selects a colour along ``palette``; each object also mixes in a
    second colour of the palette in patches (``mix``). ``dormant`` replaces the palette as the
    greenness of the season falls. ``texture`` holds relative brightness amplitudes for noise of
    about 40 m, 9 m, 2 m, 0.6 m and one pixel.
    """

    cover: str
    palette: tuple[RGB, ...]
    nir: float
    texture: tuple[float, float, float, float, float]
    dormant: tuple[RGB, ...] = ()
    dormant_nir: float = 0.25
    mix: float = 0.0


_VEGETATION = (0.10, 0.10, 0.10, 0.10, 0.08)
_PAVED = (0.04, 0.05, 0.04, 0.04, 0.04)
_EARTH = (0.10, 0.10, 0.07, 0.06, 0.05)
_ROOF = (0.0, 0.03, 0.04, 0.05, 0.05)
_SMOOTH = (0.0, 0.02, 0.02, 0.01, 0.02)

_DRY_GRASS: tuple[RGB, ...] = ((126, 114, 86), (146, 130, 98), (110, 104, 78), (158, 144, 112))
_BARE_TREE: tuple[RGB, ...] = ((100, 92, 78), (116, 104, 88), (92, 86, 76))

MATERIALS: Mapping[str, Material] = MappingProxyType(
    {
        "lawn": Material(
            "grass", ((84, 100, 54), (98, 112, 62), (74, 90, 52), (112, 118, 72)), 0.48,
            _VEGETATION, _DRY_GRASS, 0.28, 0.5,
        ),
        "meadow": Material(
            "grass", ((94, 104, 60), (112, 114, 70), (82, 94, 56), (132, 128, 84)), 0.44,
            (0.12, 0.12, 0.12, 0.12, 0.10), _DRY_GRASS, 0.26, 0.9,
        ),
        "scrub": Material(
            "grass", ((90, 96, 62), (124, 116, 80), (72, 82, 52), (140, 124, 92)), 0.38,
            (0.14, 0.16, 0.2, 0.16, 0.12), _DRY_GRASS, 0.24, 1.2,
        ),
        "crop_green": Material(
            "crop", ((68, 92, 48), (82, 106, 56), (56, 80, 46), (96, 116, 62)), 0.52,
            (0.08, 0.07, 0.05, 0.07, 0.06), ((98, 104, 64), (116, 114, 76)), 0.36, 0.4,
        ),
        "crop_ripe": Material(
            "crop", ((172, 150, 102), (156, 138, 94), (186, 166, 118)), 0.34,
            (0.08, 0.06, 0.05, 0.06, 0.05), (), 0.3, 0.4,
        ),
        "stubble": Material(
            "crop", ((150, 134, 102), (136, 122, 94), (164, 146, 112)), 0.30,
            (0.09, 0.08, 0.06, 0.07, 0.06), (), 0.3, 0.5,
        ),
        "plough": Material(
            "crop", ((116, 96, 78), (136, 112, 90), (102, 88, 74), (150, 128, 104)), 0.24,
            (0.10, 0.09, 0.05, 0.06, 0.05), (), 0.24, 0.6,
        ),
        "soil": Material(
            "bare", ((154, 134, 108), (172, 152, 124), (136, 118, 96), (188, 170, 142)), 0.30,
            _EARTH, (), 0.3, 0.9,
        ),
        "earthwork": Material(
            "bare", ((196, 180, 150), (176, 158, 128), (208, 194, 168), (160, 142, 114)), 0.34,
            (0.10, 0.13, 0.10, 0.07, 0.05), (), 0.3, 1.2,
        ),
        "rubble": Material(
            "bare", ((164, 152, 138), (148, 136, 122), (176, 166, 152)), 0.30,
            (0.08, 0.12, 0.2, 0.2, 0.1), (), 0.3, 1.0,
        ),
        "water": Material(
            "water", ((52, 62, 58), (60, 68, 60), (46, 58, 66), (70, 74, 62)), 0.03,
            (0.06, 0.02, 0.01, 0.01, 0.01), (), 0.3, 0.3,
        ),
        "pool": Material("water", ((104, 172, 184), (86, 154, 176)), 0.06, _SMOOTH),
        "asphalt": Material(
            "road", ((112, 112, 112), (128, 127, 124), (98, 98, 100), (142, 140, 134)), 0.17,
            _PAVED, (), 0.3, 0.4,
        ),
        "pale_road": Material(
            "road", ((158, 155, 148), (146, 143, 136), (170, 166, 158)), 0.24, _PAVED, (), 0.3, 0.4
        ),
        "gravel": Material(
            "road", ((168, 156, 136), (184, 172, 150), (152, 140, 120)), 0.28,
            (0.06, 0.08, 0.08, 0.07, 0.05), (), 0.3, 0.8,
        ),
        "paint": Material("road", ((206, 205, 198), (196, 194, 186)), 0.4, _SMOOTH),
        "paving": Material(
            "paved", ((168, 164, 156), (152, 148, 142), (186, 182, 174)), 0.26, _PAVED, (), 0.3, 0.4
        ),
        "concrete": Material(
            "paved", ((190, 186, 178), (176, 172, 162), (204, 200, 192)), 0.30, _PAVED, (), 0.3, 0.4
        ),
        "blacktop": Material(
            "paved", ((106, 106, 108), (120, 120, 118), (94, 94, 96), (134, 132, 128)), 0.15,
            _PAVED, (), 0.3, 0.5,
        ),
        "court": Material(
            "paved", ((164, 96, 76), (92, 122, 100), (88, 112, 140), (150, 110, 84)), 0.3, _SMOOTH
        ),
        "seal": Material("road", ((84, 84, 86), (94, 94, 94)), 0.12, _SMOOTH),
        "fence": Material("grass", ((104, 92, 76), (124, 112, 96), (88, 78, 66)), 0.25, _SMOOTH),
        "hedge": Material(
            "tree", ((58, 74, 42), (68, 86, 48), (50, 66, 40)), 0.46,
            (0.0, 0.08, 0.16, 0.2, 0.12), (), 0.4, 0.3,
        ),
        "conifer": Material(
            "tree", ((46, 64, 42), (54, 72, 46), (42, 58, 40), (60, 76, 50)), 0.40,
            (0.04, 0.08, 0.14, 0.2, 0.14), ((48, 62, 42), (56, 70, 48)), 0.36, 0.25,
        ),
        "broadleaf": Material(
            "tree", ((62, 82, 44), (74, 94, 50), (54, 72, 42), (86, 102, 58)), 0.54,
            (0.04, 0.08, 0.14, 0.2, 0.14), _BARE_TREE, 0.24, 0.3,
        ),
        "crate": Material(
            "paved", ((150, 92, 70), (92, 112, 138), (176, 172, 162), (98, 118, 96)), 0.3, _SMOOTH
        ),
        "car": Material(
            "paved",
            ((226, 226, 224), (190, 192, 194), (128, 130, 134), (62, 64, 68), (40, 42, 46),
             (150, 56, 50), (66, 84, 120), (208, 206, 200)),
            0.3, _SMOOTH,
        ),
        "glass": Material("paved", ((48, 54, 62), (60, 66, 74)), 0.1, _SMOOTH),
        "roof_tile": Material(
            "building", ((160, 100, 76), (172, 112, 84), (144, 92, 74), (182, 128, 100)), 0.34,
            _ROOF, (), 0.3, 0.5,
        ),
        "roof_brown": Material(
            "building", ((122, 98, 84), (108, 92, 82), (136, 112, 96)), 0.26, _ROOF, (), 0.3, 0.4
        ),
        "roof_shingle": Material(
            "building", ((116, 112, 106), (98, 96, 94), (132, 126, 116), (88, 86, 86)), 0.22,
            _ROOF, (), 0.3, 0.4,
        ),
        "roof_slate": Material(
            "building", ((90, 94, 102), (78, 82, 90), (104, 106, 112)), 0.16, _ROOF, (), 0.3, 0.3
        ),
        "roof_metal": Material(
            "building",
            ((196, 199, 201), (178, 183, 187), (208, 208, 204), (150, 160, 168), (132, 150, 142)),
            0.46, (0.0, 0.04, 0.03, 0.02, 0.02), (), 0.3, 0.15,
        ),
        "roof_blue": Material(
            "building", ((92, 122, 158), (108, 136, 164), (78, 104, 140)), 0.34,
            (0.0, 0.04, 0.03, 0.02, 0.02), (), 0.3, 0.15,
        ),
        "roof_white": Material(
            "building", ((214, 212, 206), (202, 200, 194), (224, 222, 218)), 0.55,
            (0.0, 0.05, 0.04, 0.02, 0.02), (), 0.3, 0.3,
        ),
        "roof_gravel": Material(
            "building", ((156, 150, 142), (142, 138, 132), (172, 166, 156)), 0.30,
            (0.0, 0.07, 0.06, 0.05, 0.04), (), 0.3, 0.6,
        ),
        "roof_bitumen": Material(
            "building", ((96, 96, 96), (84, 84, 86), (112, 110, 108)), 0.14,
            (0.0, 0.08, 0.06, 0.03, 0.03), (), 0.3, 0.6,
        ),
        "fitting": Material(
            "building", ((176, 176, 172), (200, 200, 198), (140, 140, 140)), 0.3, _SMOOTH
        ),
        "skylight": Material("building", ((214, 220, 224), (198, 206, 212)), 0.3, _SMOOTH),
        "solar": Material("building", ((46, 54, 76), (38, 46, 66)), 0.1, _SMOOTH),
        "chimney": Material("building", ((134, 96, 80), (150, 140, 130)), 0.3, _SMOOTH),
    }
)  # fmt: skip


def srgb_to_linear(srgb: FloatArray) -> FloatArray:
    """Colours in [0,1] as displayed -> linear light (power 2.2)."""
    return np.power(np.clip(srgb, 0.0, 1.0), np.float32(2.2), dtype=np.float32)


_HUES = 65
_ORDER = tuple(MATERIALS)
_INDEX = {name: i for i, name in enumerate(_ORDER)}


def _ramps(dormant: bool) -> FloatArray:
    """(materials,65,4) sRGB in [0,1] and near infrared along every palette."""
    table = np.empty((len(_ORDER), _HUES, 4), np.float32)
    at = np.linspace(0, 1, _HUES)
    for i, name in enumerate(_ORDER):
        material = MATERIALS[name]
        asleep = dormant and bool(material.dormant)
        palette = np.asarray(material.dormant if asleep else material.palette, np.float32) / 255
        stops = np.linspace(0, 1, len(palette))
        for band in range(3):
            table[i, :, band] = np.interp(at, stops, palette[:, band])
        table[i, :, 3] = material.dormant_nir if asleep else material.nir
    return table


_LUSH, _DORMANT = _ramps(dormant=False), _ramps(dormant=True)
_MIX = np.asarray([MATERIALS[name].mix for name in _ORDER], np.float32)
_TEXTURE = np.asarray([MATERIALS[name].texture for name in _ORDER], np.float32)


def material_numbers(names: Sequence[str]) -> NDArray[np.intp]:
    """(N,) positions of materials in the tables below."""
    return np.asarray([_INDEX[name] for name in names], np.intp)


def colours(
    materials: NDArray[np.intp], hues: FloatArray, greenness: float
) -> tuple[FloatArray, FloatArray]:
    """Linear reflectance of objects, and its variation in patches.

    Args:
        materials: (N,) from ``material_numbers``.
        hues: (N,) position in the palette, [0,1].
        greenness: 0 dormant vegetation, 1 lush.

    Returns:
        Two (N,4) float32 arrays (red, green, blue, near infrared): the colour, and the offset added
        to it where the patch noise is one.
    """

    def at(position: FloatArray) -> FloatArray:
        step = np.rint(np.clip(position, 0, 1) * (_HUES - 1)).astype(np.intp)
        value = _LUSH[materials, step] * np.float32(greenness)
        value += _DORMANT[materials, step] * np.float32(1 - greenness)
        value[:, :3] = srgb_to_linear(value[:, :3])
        return np.asarray(value, np.float32)

    first = at(hues)
    other = at(np.where(hues < 0.6, hues + 0.4, hues - 0.4))
    return first, np.asarray((other - first) * _MIX[materials][:, None], np.float32)


def texture_amplitudes(materials: NDArray[np.intp]) -> FloatArray:
    """(N,5) relative brightness amplitudes of objects."""
    return _TEXTURE[materials]
