#!/usr/bin/env bash
# A Spark standalone cluster of one master and two workers on this machine, for as long as one command runs:
#
#   deploy/standalone/cluster.sh CONFIG [key=value ...]     recsys-spark run CONFIG on it
#   deploy/standalone/cluster.sh -- COMMAND ...             any command, with SPARK_MASTER in its environment
#
#   CORES, MEMORY   of each worker (1, 1g)
#   CLUSTER_DIR     logs and work folders; kept (default: a new temporary folder, removed at the end)
#
# The daemons end with this script, however it ends. Ports are the first free ones that Spark finds.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
BIN=${BIN:-$ROOT/.venv/bin}
SPARK_HOME=$("$BIN/python" -c 'import importlib.util, os; print(os.path.dirname(importlib.util.find_spec("pyspark").origin))')
DIR=${CLUSTER_DIR:-$(mktemp -d)}
export SPARK_HOME SPARK_DAEMON_MEMORY=${SPARK_DAEMON_MEMORY:-512m} SPARK_LOCAL_IP=127.0.0.1 SPARK_NO_DAEMONIZE=1
export PYSPARK_PYTHON=${PYSPARK_PYTHON:-$BIN/python} PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH} PATH=$BIN:$PATH
# The daemons say on which ports they listen by log lines of level INFO, which the project's own settings leave out.
export SPARK_CONF_DIR=$DIR/conf
pids=()

stop() {
    trap - EXIT
    [[ ${#pids[@]} -eq 0 ]] || kill "${pids[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    [[ -n ${CLUSTER_DIR:-} ]] || rm -rf "$DIR"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# daemon NAME CLASS ARGUMENTS...: in the background, its log in $DIR/NAME.log
daemon() {
    local name=$1
    shift
    "$SPARK_HOME/bin/spark-class" "$@" >"$DIR/$name.log" 2>&1 &
    pids+=($!)
}

# told NAME PATTERN: waits until the log of a daemon holds the pattern, and prints what its group matched
told() {
    local tries found
    for tries in $(seq 300); do
        found=$(sed -n "s/.*$2.*/\1/p" "$DIR/$1.log" 2>/dev/null | head -1)
        [[ -z $found ]] || { printf '%s\n' "$found" && return; }
        sleep 0.2
    done
    printf 'cluster: the %s did not start; its log ends:\n' "$1" >&2
    tail -5 "$DIR/$1.log" >&2
    return 1
}

mkdir -p "$DIR/conf"
sed 's/^rootLogger.level = .*/rootLogger.level = info/' "$ROOT/deploy/spark/log4j2.properties" >"$DIR/conf/log4j2.properties"
daemon master org.apache.spark.deploy.master.Master --host 127.0.0.1 --port 0 --webui-port 0
SPARK_MASTER=$(told master 'Starting Spark master at \(spark:[^ ]*\)')
export SPARK_MASTER
for number in 1 2; do
    daemon "worker-$number" org.apache.spark.deploy.worker.Worker --host 127.0.0.1 --cores "${CORES:-1}" --memory "${MEMORY:-1g}" \
        --webui-port 0 --work-dir "$DIR/work-$number" "$SPARK_MASTER"
done
for number in 1 2; do
    told "worker-$number" '\(Successfully registered with master\)' >/dev/null
done
printf 'cluster: %s, two workers of %s core(s) and %s\n' "$SPARK_MASTER" "${CORES:-1}" "${MEMORY:-1g}" >&2
unset SPARK_CONF_DIR # jobs take the settings that `make setup` placed

if [[ ${1:-} == -- ]]; then
    shift
    "$@"
else
    "$BIN/python" -m recsys_spark.cli run "$@" "env.spark.master=$SPARK_MASTER"
fi
