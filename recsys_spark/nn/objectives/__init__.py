"""Losses of next-item models: sums over targets, without any knowledge of models or batches."""
