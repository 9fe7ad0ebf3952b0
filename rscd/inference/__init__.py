"""From a scene pair to a probability raster: predictors and the tiled engine."""
