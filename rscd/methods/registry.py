"""Training methods by name."""

from rscd.methods.base import Method
from rscd.methods.building_change import BuildingChange
from rscd.methods.kdmsi import CamBaseline, KdMsi
from rscd.methods.scene import Scene, ScenePretrain
from rscd.methods.supervised import Supervised

METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "kdmsi": KdMsi,
    "cam": CamBaseline,
    "building-change": BuildingChange,
    "scene-pretrain": ScenePretrain,
    "scene": Scene,
}
