"""Names, contracts, configuration, errors, logs and seeds. Imports neither pyspark nor torch."""
