"""Factors by alternating least squares, in blocks on Spark."""
