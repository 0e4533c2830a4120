"""Data sets, one file each, and generators of data in the same formats."""
