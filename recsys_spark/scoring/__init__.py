"""Queries to ranked items: one top-k, one seen filter, one tie rule."""
