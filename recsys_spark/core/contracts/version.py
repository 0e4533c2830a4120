"""The format version of all contracts."""

VERSION = 2  # incremented when a reader of an older artefact would misread it
