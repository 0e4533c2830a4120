"""Metrics of scored runs: one interface, two engines."""
