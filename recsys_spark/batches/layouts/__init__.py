"""One file per layout, named like its Spark half in `etl/layouts/`; each holds one batch class."""
