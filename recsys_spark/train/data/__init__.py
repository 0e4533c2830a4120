"""Rows: their order, and the engines that read them."""
