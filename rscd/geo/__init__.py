"""Pixel grids, scenes, tiles and polygons: numpy, rasterio and shapely; no torch."""
