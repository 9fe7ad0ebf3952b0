"""Scene pairs to probability rasters: predictors and the tiled engine."""
