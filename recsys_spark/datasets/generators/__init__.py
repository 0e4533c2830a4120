"""Generators of data in the format of a published data set."""
