"""The Spark half of a layout: one file each, named like its torch half in `batches/layouts/`."""
