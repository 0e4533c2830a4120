"""Models whose row is (user, item it met), with items it has not met."""
