"""Validation after each epoch: one file for each way in which a kind of task is scored."""
