"""Models whose row is (user, item it met), beside items it has not met."""
