"""Scored runs as an evaluation and a report read them."""
