#!/usr/bin/env bash
# Make launch/lock/*.txt again from pyproject.toml: bash launch/lock.sh [--upgrade]
# It needs uv. Without --upgrade the versions stay as they are, as far as pyproject.toml allows.
# A file has the versions of Python 3.11 and of 3.12 and newer, and the hashes of all their wheels.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
for extra in base dev cuda12 cuda13 tpu; do
  chosen=()
  if [ "$extra" != base ]; then chosen=(--extra "$extra"); fi
  lock=launch/lock/$extra.txt
  # a new file begins with the versions that the others have
  if [ ! -e "$lock" ]; then cp launch/lock/base.txt "$lock"; fi
  # setuptools builds this package, and packages that come as source
  echo "setuptools>=77" | uv pip compile pyproject.toml - "${chosen[@]}" "$@" \
    --universal --python-version 3.11 --generate-hashes --no-annotate --quiet \
    --custom-compile-command "bash launch/lock.sh" --output-file "$lock"
done
