"""Training methods by name."""

from rscd.methods.base import Method
from rscd.methods.building_change import BuildingChange, MixedBuildingChange
from rscd.methods.diffmatch import DiffMatch
from rscd.methods.kdmsi import CamBaseline, Detector, KdMsi
from rscd.methods.scene import Scene, ScenePretrain
from rscd.methods.supervised import Supervised

METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "kdmsi": KdMsi,
    "cam": CamBaseline,
    "detector": Detector,
    "building-change": BuildingChange,
    "building-change-mixed": MixedBuildingChange,
    "diffmatch": DiffMatch,
    "scene-pretrain": ScenePretrain,
    "scene": Scene,
}
