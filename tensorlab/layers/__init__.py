"""Layers: the only modules that hold a format, and how to put them into a model."""
