"""Of all that is written here."""

VERSION = 1  # raised when a reader of an older artefact would misread it
