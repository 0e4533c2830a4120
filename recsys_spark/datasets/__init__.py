"""One file per data set: original bytes to raw tables, and generators of the same formats."""
