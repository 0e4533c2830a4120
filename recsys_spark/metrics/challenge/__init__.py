"""Metrics of challenges as their organisers compute them, a file a challenge."""
