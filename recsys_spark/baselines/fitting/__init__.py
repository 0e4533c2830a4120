"""Input and output of baselines, and their registry."""
