"""Models of what comes next in a history."""
