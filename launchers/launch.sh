#!/usr/bin/env bash
# Launch a recipe on all GPUs there are, or on the CPU; what was interrupted continues.
#   bash launchers/launch.sh RECIPE [its arguments]      RESTART=1 begins anew
set -euo pipefail
cd "$(dirname "$0")/.."
recipe=$1
shift

python launchers/doctor.py

help=$(python "recipes/$recipe.py" --help)
case $help in *"--resume "*)
    # In front, so that a --resume of the user's own counts.
    if [ -n "${RESTART:-}" ]; then set -- --resume false "$@"; else set -- --resume true "$@"; fi ;;
esac

gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)
case $gpus in
    0) where=(--config_file accelerate_configs/cpu.yaml) ;;
    1) where=(--config_file accelerate_configs/single_gpu.yaml) ;;
    *) where=(--config_file accelerate_configs/multi_gpu.yaml --num_processes "$gpus") ;;
esac
exec accelerate launch --quiet "${where[@]}" "recipes/$recipe.py" "$@"
