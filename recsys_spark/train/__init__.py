"""One training loop on any number of ranks: reader, workers, optimiser, checkpoints."""
