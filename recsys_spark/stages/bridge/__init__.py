"""The only files that know both Spark and torch."""
