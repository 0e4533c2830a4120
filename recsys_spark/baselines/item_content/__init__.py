"""Items described by their fields."""
