#!/usr/bin/env bash
# Trains on all GPUs (or TPU chips) of this host, as one process. Started again when it was stopped in good order by
# anything but you (exit code 75), at most MAX_RESTARTS times.
#
#   launch/multi_gpu.sh configs/llava_onevision_7b.py --run-dir runs/7b
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh

if (($# == 0)) || [[ $1 == -h || $1 == --help ]]; then
  sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit $(($# == 0 ? 2 : 0))
fi

ega_jax="${EGA_JAX:-$(command -v ega-jax || echo .venv/bin/ega-jax)}"
child='' stopped=''
# You stop it: it saves and ends, and is not started again.
trap 'stopped=1; [[ -z $child ]] || kill -TERM "$child" 2>/dev/null || true' INT TERM

for ((start = 0; start <= ${MAX_RESTARTS:-100}; start++)); do
  "$ega_jax" train "$@" &
  child=$! status=0
  wait "$child" || status=$?
  # A trapped signal ends `wait` before the child has ended.
  while kill -0 "$child" 2>/dev/null; do
    status=0
    wait "$child" || status=$?
  done
  if ((status != 75)) || [[ -n $stopped ]]; then
    exit "$status"
  fi
  echo "multi_gpu.sh: stopped in good order; starting again" >&2
done
exit 75
