"""From a probability raster to files an analyst opens."""
