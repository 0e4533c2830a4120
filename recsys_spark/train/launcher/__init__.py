"""Ranks as processes: starts, watches and restarts them, and finds why they ended."""
