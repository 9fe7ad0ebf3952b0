"""Segmenters: objects in an image of one date, found by text prompts."""
