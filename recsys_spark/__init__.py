"""Recommendations from raw logs to Delta tables: Spark, Petastorm, Horovod and PyTorch."""

__version__ = "0.1.0"
