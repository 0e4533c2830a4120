"""Spark or closed-form recommenders; each writes an index artefact for the one scorer."""
