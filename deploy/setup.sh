#!/usr/bin/env bash
# Makes .venv with everything the project needs, or says in a moment that it is up to date. Called by `make setup`.
#
#   PYTHON               the Python 3.11 to use; otherwise python3.11, python3 or python, the first that is a 3.11
#   RECSYS_CACHE         where the Horovod wheel and the JARs are kept; default ~/.cache/recsys_spark
#   MAVEN_REPOSITORY     where Delta's JARs come from; default Maven Central
#   RECSYS_TORCH=cpu     torch without CUDA, where PyTorch's own index has that build of the pinned version: about 2 GB in place of 6
#   PIP_EXTRA_INDEX_URL  another index that has such a build: pip prefers it
#
# Each step may be killed at any point: what is downloaded or built takes its name only when it is whole, an environment that
# this script made and pip did not finish is made anew, and only the last line writes the stamp of a whole set-up.
# An environment that it did not leave unfinished itself is never deleted.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv
CACHE=${RECSYS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/recsys_spark}
STAMP=$VENV/.setup-stamp         # fingerprint of a whole set-up
UNFINISHED=$VENV/.setup-running  # this script made .venv, and pip has not finished it yet

say() { printf 'setup: %s\n' "$*"; }

main() {
    check_tools
    local wanted
    wanted=$(fingerprint)
    if [[ -x $VENV/bin/python && -f $STAMP && $(<"$STAMP") == "$wanted" ]]; then
        say "up to date (.venv)"
        return
    fi
    rm -f "$STAMP"
    make_venv
    install_packages
    "$ROOT/deploy/build_horovod.sh" "$VENV/bin/python" "$CACHE"
    equip_spark
    tell_of_blas
    printf '%s\n' "$wanted" >"$STAMP.new"
    mv "$STAMP.new" "$STAMP"
    say "done. Next: make demo, or .venv/bin/recsys-spark --help"
}

# Names every missing tool with what to install, then exits with 2. Runs before anything else.
check_tools() {
    local missing=()
    PYTHON=$(find_python) || missing+=("Python 3.11 with venv and its headers (set PYTHON to name one)|\
apt install python3.11 python3.11-venv python3.11-dev|brew install python@3.11")
    local java=${JAVA_HOME:+$JAVA_HOME/bin/}java found found_java
    found=$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p') || true
    [[ -n $found ]] && found_java="version $found by $java" || found_java="no $java that runs"
    [[ ${found:-0} -ge 17 ]] || missing+=("JDK 17 or newer (found $found_java)|\
apt install openjdk-17-jdk-headless|brew install openjdk@17, then set JAVA_HOME")
    first_of "${CXX:-}" g++ c++ clang++ >/dev/null || missing+=("a C++ compiler|apt install g++|xcode-select --install")
    first_of cmake >/dev/null || missing+=("cmake|apt install cmake|brew install cmake")
    first_of make gmake >/dev/null || missing+=("make|apt install make|xcode-select --install")
    [[ ${#missing[@]} -eq 0 ]] && return
    local one what apt brew
    for one in "${missing[@]}"; do
        IFS='|' read -r what apt brew <<<"$one"
        printf 'setup: missing: %s. Install: %s (Debian, Ubuntu) or %s (macOS)\n' "$what" "$apt" "$brew" >&2
    done
    exit 2
}

# The first of the given commands that is there.
first_of() {
    local command
    for command in "$@"; do
        [[ -n $command ]] && command -v "$command" && return
    done
    return 1
}

# Absolute path of a Python 3.11 that can make a virtual environment and compile against its headers.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3 python; do
        "$candidate" - 2>/dev/null <<'PY' && return
import ensurepip, os, sys, sysconfig, venv
if sys.version_info[:2] != (3, 11) or not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    sys.exit(1)
print(sys.executable)
PY
        [[ -z ${PYTHON:-} ]] || return 1  # the user named one: no other is taken in its place
    done
    return 1
}

# Changes whenever another set-up is needed: a requirement, a pin, a step of this script, the place.
fingerprint() {
    cat "$ROOT"/setup.py "$ROOT"/constraints.txt "$ROOT"/deploy/{setup.sh,build_horovod.sh,place_jars.py} "$ROOT"/deploy/spark/* |
        "$PYTHON" -c 'import hashlib, sys; print(hashlib.sha256(repr(sys.argv[1:]).encode() + sys.stdin.buffer.read()).hexdigest())' \
            "$VENV"
}

# Deletes one thing only: an environment that carries our own mark of being unfinished. Any other is someone's work.
make_venv() {
    if [[ -e $UNFINISHED ]]; then
        say ".venv was left unfinished: making it anew"
        rm -rf "$VENV"
    elif [[ -e $VENV ]]; then
        # Scripts hold absolute paths, so an environment that was copied here from elsewhere is of no use.
        if grep -qsF "$VENV/bin/python" "$VENV/bin/pip" && is_311 "$VENV/bin/python"; then
            return
        fi
        printf 'setup: %s: found an environment that was moved here or is not Python 3.11; expected one that belongs here. %s\n' \
            "$VENV" "To mend: move or delete it, then run make setup again" >&2
        exit 2
    fi
    mkdir "$VENV"
    touch "$UNFINISHED"
    "$PYTHON" -m venv "$VENV"
}

is_311() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; }

install_packages() {
    tell_of_torch
    # Without build isolation: packages that come as source are built with the pinned tools, not with the newest ones.
    logged pip setuptools wheel
    logged pip --no-build-isolation --editable "$ROOT[local,tune,boost,test]"
    "$VENV/bin/python" -m pip check
    rm -f "$UNFINISHED"
}

tell_of_torch() {
    if [[ $(uname) != Linux || ${RECSYS_TORCH:-} == cpu || -n ${PIP_EXTRA_INDEX_URL:-} ]]; then
        say "installing packages (minutes the first time)"
    else
        say "installing packages: minutes and 6 GB the first time, 4 of them the CUDA libraries that torch brings for NVIDIA GPUs"
        say "no such GPU? stop, and start again with RECSYS_TORCH=cpu: torch's CPU build, about 2 GB in all"
    fi
}

# Runs an installation; its lines go to a log, and from there to one line that says where it is. Shows the log's end on failure.
logged() {
    local log=$VENV/.setup-log
    "$@" 2>&1 | progress "$log" && return
    say "packages could not be installed; the end of $log:"
    tail -n 20 "$log" >&2
    return 1
}

# Reads pip's lines into a log. On a terminal one line changes with them, elsewhere there is one every half minute.
progress() {
    local line packages=0 said=$SECONDS every_s=${2:-30}
    : >"$1"
    while IFS= read -r line; do
        printf '%s\n' "$line" >>"$1"
        [[ $line =~ ^Collecting ]] && packages=$((packages + 1))
        [[ $line =~ ^[[:space:]]*(Collecting|Downloading|Building|Installing) ]] || continue
        line="$packages packages so far, $SECONDS s: ${line#"${line%%[![:space:]]*}"}"
        if [[ -t 1 ]]; then
            printf '\r\033[K%.100s' "setup: $line"
        elif [[ $((SECONDS - said)) -ge $every_s ]]; then
            said=$SECONDS
            printf '%.100s\n' "setup: $line"
        fi
    done
    [[ ! -t 1 ]] || printf '\r\033[K'
}

# Spark's ALS multiplies by the system's BLAS where there is one, else in Java.
tell_of_blas() {
    [[ $(uname) == Linux ]] && ! ldconfig -p 2>/dev/null | grep 'libblas\.so\.3' >/dev/null || return 0
    say "a native BLAS makes Spark's ALS 1.5 times as fast (rank 64): apt install libopenblas0, or your system's libopenblas"
}

pip() {
    local index=()
    [[ ${RECSYS_TORCH:-} != cpu ]] || index=(--extra-index-url https://download.pytorch.org/whl/cpu)
    "$VENV/bin/python" -m pip install --disable-pip-version-check --constraint "$ROOT/constraints.txt" ${index[@]+"${index[@]}"} "$@"
}

# Delta's JARs and settings into pyspark's own folders, so that a plain .venv/bin/spark-submit needs no flags and no network.
equip_spark() {
    local home
    home=$("$VENV/bin/python" -c 'import importlib.util, os; print(os.path.dirname(importlib.util.find_spec("pyspark").origin))')
    "$VENV/bin/python" "$ROOT/deploy/place_jars.py" "$CACHE/jars" "$home/jars"
    mkdir -p "$home/conf"
    cp "$ROOT"/deploy/spark/* "$home/conf/"
    # pip's version asks the first `python3` of the PATH where pyspark is, which knows it only in an activated environment.
    printf '#!/usr/bin/env bash\nexport SPARK_HOME="%s"\n' "$home" >"$VENV/bin/find-spark-home"
}

# Sourced (by tests), this file only defines its functions.
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    main "$@"
fi
