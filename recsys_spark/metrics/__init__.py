"""Metrics as mergeable sums that are divided once: one definition each for Spark and torch."""
