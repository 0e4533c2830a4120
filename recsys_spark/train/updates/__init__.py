"""The parts of a step: loss, gradients over all ranks, optimisers."""
