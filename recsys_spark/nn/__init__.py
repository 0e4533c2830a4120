"""Layers and noise that at least two models share."""
