#!/usr/bin/env bash
# Trains on a TPU pod slice of Google Cloud: creates it if there is none, copies this checkout to all workers, installs,
# and runs the same command on each. A spot slice that is taken away is made anew, and the run goes on.
#
#   launch/tpu_pod.sh --name ega --zone us-east5-a --type v5p-128 --spot --setup 'sudo mount 10.0.0.2:/share /mnt' \
#     -- configs/llava_onevision_7b.py --run-dir /mnt/runs/7b
#
#   --name NAME       of the slice
#   --zone ZONE       where it is
#   --type TYPE       accelerator type, such as v5p-128 or v6e-64
#   --version IMAGE   of its virtual machines (default: by type)
#   --project ID      default: gcloud's own
#   --spot            cheaper, and may be taken away at any time
#   --setup COMMAND   run on every worker first, such as the mount of a disk that all see: the run directory and the
#                     data must lie there
#   --keep            leave the slice running at the end
#   --dry-run         print the commands and run none
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

main() {
  local name='' zone='' type='' version='' project='' setup='true' spot='' keep='' dry=''
  while (($#)); do
    case "$1" in
      --name) name="${2:?}" && shift 2 ;;
      --zone) zone="${2:?}" && shift 2 ;;
      --type) type="${2:?}" && shift 2 ;;
      --version) version="${2:?}" && shift 2 ;;
      --project) project="${2:?}" && shift 2 ;;
      --setup) setup="${2:?}" && shift 2 ;;
      --spot) spot=1 && shift ;;
      --keep) keep=1 && shift ;;
      --dry-run) dry=1 && shift ;;
      --) shift && break ;;
      -h | --help) usage && exit 0 ;;
      *) refuse "unknown option $1" ;;
    esac
  done
  [[ -n $name && -n $zone && -n $type ]] || refuse "--name, --zone and --type are needed"
  (($#)) || refuse "give a config after --, such as: -- configs/llava_onevision_7b.py --run-dir /mnt/runs/7b"
  local place=(--zone "$zone" ${project:+--project "$project"})
  local train
  printf -v train ' %q' "$@" # as the remote shell will read it
  train="cd ega_jax && source launch/environment.sh && .venv/bin/ega-jax train${train} --processes.join always"

  while true; do
    if [[ "$(state)" != READY ]]; then
      # What is left of a slice that was taken away is in the way of a new one.
      [[ "$(state)" == ABSENT ]] || call gcloud compute tpus tpu-vm delete "$name" "${place[@]}" --quiet
      call gcloud compute tpus tpu-vm create "$name" "${place[@]}" --accelerator-type "$type" \
        --version "${version:-$(image)}" ${spot:+--spot}
    fi
    local status=0
    copy && remote "$setup" && remote "$(install)" && remote "$train" || status=$?
    if ((status == 0)); then
      break
    elif ((status == 75)) || { [[ -n $spot ]] && [[ "$(state)" != READY ]]; }; then
      echo "tpu_pod.sh: stopped in good order or taken away; going on" >&2
      sleep "${RETRY_SECONDS:-30}"
    else
      echo "tpu_pod.sh: failed with exit code ${status}; the slice ${name} is left as it is" >&2
      exit "$status"
    fi
  done
  [[ -n $keep ]] || call gcloud compute tpus tpu-vm delete "$name" "${place[@]}" --quiet
}

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }

refuse() {
  echo "tpu_pod.sh: $1; see --help" >&2
  exit 2
}

call() {
  if [[ -n $dry ]]; then
    printf '%q ' "$@" && echo
  else
    "$@"
  fi
}

state() {
  if [[ -n $dry ]]; then
    echo ABSENT
  else
    gcloud compute tpus tpu-vm describe "$name" "${place[@]}" --format 'value(state)' 2>/dev/null || echo ABSENT
  fi
}

image() {
  case "$type" in
    v6e*) echo v2-alpha-tpuv6e ;;
    v5p*) echo v2-alpha-tpuv5 ;;
    v5lite* | v5e*) echo v2-alpha-tpuv5-lite ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

copy() {
  local archive
  archive="$(mktemp -d)/ega_jax.tar.gz"
  call git archive --format tar.gz --output "$archive" HEAD
  call gcloud compute tpus tpu-vm scp "$archive" "$name:ega_jax.tar.gz" "${place[@]}" --worker all
}

install() {
  echo "mkdir -p ega_jax && tar -xzf ega_jax.tar.gz -C ega_jax && cd ega_jax && { [[ -d .venv ]] || python3 -m venv .venv; } \
&& .venv/bin/pip install --quiet --constraint constraints.txt --editable '.[tpu]'"
}

remote() { call gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker all --command "$1"; }

main "$@"
