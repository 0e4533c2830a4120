"""The only SparkSession builder, the only Delta code, the schema of every table."""
