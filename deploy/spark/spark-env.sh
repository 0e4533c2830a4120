# Copied into pyspark's conf folder by `make setup`. Without it, Spark starts the first `python3` of the PATH.
PYSPARK_PYTHON=${PYSPARK_PYTHON:-$(cd -P "$SPARK_HOME/../../../../bin" && pwd)/python}
