"""Models whose row is (user, item, features, label)."""
