#!/usr/bin/env bash
# Launch a recipe on all GPUs of this machine, or on its CPU; an interrupted run continues.
#   bash launchers/launch.sh RECIPE [its arguments]      RESTART=1 starts anew
set -euo pipefail
cd "$(dirname "$0")/.."
recipe=$1
shift

python launchers/doctor.py

help=$(python "recipes/$recipe.py" --help)
case $help in *"  --resume"*)
    # In front, so that the user's own --resume overrides it.
    if [ -n "${RESTART:-}" ]; then set -- --resume false "$@"; else set -- --resume true "$@"; fi ;;
esac

gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)
case $gpus in
    0) where=(--config_file accelerate_configs/cpu.yaml) ;;
    1) where=(--config_file accelerate_configs/single_gpu.yaml) ;;
    *) where=(--config_file accelerate_configs/multi_gpu.yaml --num_processes "$gpus") ;;
esac
exec accelerate launch --quiet "${where[@]}" "recipes/$recipe.py" "$@"
