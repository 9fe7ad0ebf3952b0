"""Synthetic towns at two dates: known buildings appear and vanish among other changes.

    town = plan_town(seed=7, shape_hw=(256, 256), gsd_m=0.5, change_share=0.2)
    pair = render_town(town, Nuisance.draw(np.random.default_rng(7)))

One module per step: ``parts`` (values), ``layout``, ``lots``, ``open``, ``buildings`` (the plan),
``plan`` (a whole town at both dates), ``draft`` (a plan being made), ``raster``, ``materials``,
``noise``, ``light``, ``sensor`` (its appearance), ``conditions`` (the parameters), ``render`` (the
image).

The plan (``plan_town``) consists of vectors in metres; the image is a height field with materials,
lit by a sun, seen through air and optics. Definition of the truth: a pixel is change if its centre
is in the roof outline of a building that exists at exactly one date. A replaced building counts as
change over both outlines, including where they overlap; sheds and containers below 14 square
metres, cars, trees, crops, earthworks and streets never do.
"""

from rscd.synthetic.towns.conditions import Conditions, Nuisance
from rscd.synthetic.towns.materials import LAND_COVER
from rscd.synthetic.towns.parts import Building, Change, Town, TownStyle
from rscd.synthetic.towns.plan import plan_town
from rscd.synthetic.towns.render import TownPair, render_town

__all__ = [
    "LAND_COVER",
    "Building",
    "Change",
    "Conditions",
    "Nuisance",
    "Town",
    "TownPair",
    "TownStyle",
    "plan_town",
    "render_town",
]
