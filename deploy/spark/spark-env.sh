# Copied into pyspark's conf folder by `make setup`. Without it, Spark starts the first `python3` of the PATH.
PYSPARK_PYTHON=${PYSPARK_PYTHON:-$(cd -P "$SPARK_HOME/../../../../bin" && pwd)/python}

# What a JVM and Spark say of themselves at every start to a user who did nothing wrong: the vector module that Spark asks for is
# still an incubator, the log level is the one that was asked for, there is no native BLAS (`make setup` says what one brings).
set +o posix
_usual='WARNING: Using incubator modules: jdk\.incubator\.vector'
_usual+='|Setting Spark log level to "[A-Z]+"\.'
_usual+='|netlib-(blas|lapack|arpack): JNI_OnLoad: dlopen\(.*\) failed: .*'
exec 2> >(exec grep --line-buffered -vE "^($_usual)\$" >&2)
unset _usual
