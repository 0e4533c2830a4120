"""Parquet shards and their side files."""
