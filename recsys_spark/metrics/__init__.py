"""Sums that merge, divided once: one definition of every metric for Spark and torch."""
