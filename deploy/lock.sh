#!/usr/bin/env bash
# Writes deploy/constraints.txt, the versions that the image is built with: deploy/lock.sh [UV]      by default `uv` from the path
# Without the parts of CUDA: torch's own wheels say which of those they need, and its CPU build needs none.
set -euo pipefail
cd "$(dirname "$0")/.."
{
  echo "# What the image is built with, dependencies of dependencies included. Made by deploy/lock.sh; run it again after a change of pyproject.toml."
  "${1:-uv}" pip compile -q pyproject.toml --extra s3 --extra timm --extra video --extra dashboard --extra fast --upgrade \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-annotate --no-header |
    grep -vE '^(nvidia|cuda)-|^triton=='
} >deploy/constraints.new
mv deploy/constraints.new deploy/constraints.txt
