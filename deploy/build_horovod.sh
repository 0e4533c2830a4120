#!/usr/bin/env bash
# build_horovod.sh PYTHON CACHE
#
# Installs Horovod, compiled from its source distribution against the torch of PYTHON. The wheel is built once and kept in
# CACHE/wheels/, in a folder named after all that it depends on (pip's own cache ignores torch and the HOROVOD_* settings).
# CPU and Gloo by default; with HOROVOD_GPU_OPERATIONS=NCCL (and HOROVOD_CUDA_HOME, HOROVOD_NCCL_HOME) for GPUs.
# Needs in PYTHON: torch, cffi, packaging, setuptools, wheel. On the machine: a C++17 compiler, cmake, make.
set -euo pipefail

PYTHON=$1
CACHE=$2
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
VERSION=$(sed -n 's/^horovod==//p' "$HERE/../constraints.txt")

say() { printf 'setup: %s\n' "$*"; }

main() {
    local key wheels
    key=$("$PYTHON" -c 'import sys, torch; print("py%d.%d-torch%s" % (*sys.version_info[:2], torch.__version__))')
    wheels=$CACHE/wheels/horovod-$VERSION-$key${HOROVOD_GPU_OPERATIONS:+-$HOROVOD_GPU_OPERATIONS}
    if [[ -d $wheels ]]; then
        if install "$wheels" && check; then
            say "Horovod $VERSION from ${wheels/#$HOME/\~}"
            return
        fi
        say "the wheel in $wheels does not work here: building it anew"
    fi
    mkdir -p "$CACHE/wheels"
    BUILD=$(mktemp -d "$CACHE/wheels/.building-XXXXXX")
    trap 'rm -rf "$BUILD"' EXIT
    build
    install "$BUILD/wheels"
    check || { say "Horovod was built, but without its native library; see $CACHE/horovod-build.log" >&2; exit 1; }
    rm -rf "$wheels"
    mv "$BUILD/wheels" "$wheels"
    say "Horovod $VERSION built and kept in ${wheels/#$HOME/\~}"
}

build() {
    local log=$CACHE/horovod-build.log source=$BUILD/horovod-$VERSION file cores
    say "building Horovod $VERSION (three minutes on two cores, once; log in ${log/#$HOME/\~})"
    "$PYTHON" -m pip download --quiet --no-deps --no-build-isolation --no-binary horovod --dest "$BUILD" "horovod==$VERSION" >"$log" 2>&1 || fail "$log"
    tar -xzf "$BUILD/horovod-$VERSION.tar.gz" -C "$BUILD"
    # The headers of torch 2.1 and newer are C++17. Upstream made the same change after this release.
    for file in "$source/CMakeLists.txt" "$source/horovod/torch/CMakeLists.txt"; do
        grep -q 'set(CMAKE_CXX_STANDARD 14)' "$file" || { say "$file no longer says C++ 14: adapt deploy/build_horovod.sh" >&2; exit 1; }
        sed -i.orig 's/set(CMAKE_CXX_STANDARD 14)/set(CMAKE_CXX_STANDARD 17)/' "$file"
    done
    cores=$(getconf _NPROCESSORS_ONLN)
    export MAKEFLAGS=${MAKEFLAGS_HOROVOD:--j$((cores < 8 ? cores : 8))}   # a compilation takes about 1 GB
    # gcc 13 no longer includes these by the way, and CMake 4 refuses the policies that the bundled libraries ask for.
    export CXXFLAGS="${CXXFLAGS:-} -include cstdint -include stdexcept -include string"
    export CMAKE_POLICY_VERSION_MINIMUM=3.5
    export HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1
    export HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1 HOROVOD_CPU_OPERATIONS=GLOO
    # With build isolation there would be no torch to build against, and the wheel would lack its library without a word.
    "$PYTHON" -m pip --no-cache-dir wheel --no-deps --no-build-isolation --wheel-dir "$BUILD/wheels" "$source" >>"$log" 2>&1 || fail "$log"
}

install() { "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps --no-index --force-reinstall "$1"/horovod-*.whl; }

check() { "$PYTHON" -c 'import horovod.torch as hvd, horovod.torch.mpi_lib_v2; assert hvd.gloo_built(), "Horovod lacks Gloo"'; }

fail() {
    tail -n 30 "$1" >&2
    say "building Horovod failed; the whole log is $1" >&2
    exit 1
}

main
