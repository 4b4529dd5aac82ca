#!/usr/bin/env bash
# On another machine: install the parcel that holds this file, with the tested versions and their digests, then launch a recipe.
#   bash launchers/run.sh RECIPE [its arguments]
set -euo pipefail
cd "$(dirname "$0")/.."

command -v uv >/dev/null || python3 -m pip install --quiet uv
[ -x .venv/bin/python ] || uv venv --quiet --python 3.11 .venv
# All parcels have the same version: without --reinstall-package, uv would keep the first one.
wheel=$(echo underheard-*.whl)
uv pip install --quiet --python .venv --constraint constraints.txt --reinstall-package underheard \
    "underheard[demo,export,gpu,vad] @ file://$PWD/$wheel"

PATH="$PWD/.venv/bin:$PATH" exec bash launchers/launch.sh "$@"
