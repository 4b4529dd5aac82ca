#!/usr/bin/env bash
# On a machine elsewhere: install the parcel around this file in the tested versions, then launch a recipe.
#   bash launchers/run.sh RECIPE [its arguments]
set -euo pipefail
cd "$(dirname "$0")/.."

command -v uv >/dev/null || python3 -m pip install --quiet uv
[ -x .venv/bin/python ] || uv venv --quiet --python 3.11 .venv
# The version is the same from parcel to parcel: without --reinstall-package the first one would stay.
wheel=$(echo underheard-*.whl)
uv pip install --quiet --python .venv --constraint constraints.txt --reinstall-package underheard \
    "$(grep '^torch==' constraints.txt)" "underheard[demo,export,gpu] @ file://$PWD/$wheel"

PATH="$PWD/.venv/bin:$PATH" exec bash launchers/launch.sh "$@"
