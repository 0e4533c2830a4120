"""The torch half of a layout: the batches that models read, and the queries they score."""
