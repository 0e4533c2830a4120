"""Checkpoints and records."""
