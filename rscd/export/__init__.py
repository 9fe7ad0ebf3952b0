"""From a probability raster to files for analysts."""
