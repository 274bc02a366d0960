"""Labelled images: synthetic objects with masks, or class folders; prepared once, read as tensors."""
