"""Segmenters: what stands in an image of one date, asked for by text prompts."""
