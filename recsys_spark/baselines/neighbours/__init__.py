"""Sparse matrices of similarities: products, weights, the nearest."""
