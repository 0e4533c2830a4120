"""Models whose row is a user's sparse vector."""
