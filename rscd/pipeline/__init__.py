"""From a pair of images to files: change maps, change events and their provenance."""

from rscd.pipeline.maps import Result, open_pair, predict
from rscd.pipeline.objects import EventResult, predict_events
from rscd.pipeline.run import Options

__all__ = ["EventResult", "Options", "Result", "open_pair", "predict", "predict_events"]
