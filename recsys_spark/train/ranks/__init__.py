"""The connection between the ranks of a training, from the side of one rank."""
