#!/usr/bin/env bash
# launch/slurm.sbatch on a real SLURM: two tasks train on Glyphs, one is killed outright, later all get SIGTERM; each time
# the job goes back into the queue by itself, and in the end no step is missing or there twice. Needs root, two cores, and
# Debian's munge and slurm-wlm.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

scratch="$(mktemp -d)"
run="$scratch/run" log="$scratch/job.log" steps=40 job=""

main() {
  SLURM_CONF="$(tests/launch/slurm_local.sh start "$scratch/slurm")"
  export SLURM_CONF
  # Beside the scratch directory nothing is written: programs are compiled once, and read by the restarts.
  export JAX_COMPILATION_CACHE_DIR="$scratch/compiled" JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
  job="$(sbatch --parsable --ntasks-per-node=2 --cpus-per-task=1 --time=15 --signal=TERM@10 --output="$log" \
    launch/slurm.sbatch configs/glyphs.py --run-dir "$run" --steps "$steps" --log-every 1 --checkpoint.every 4 \
    --validation.every None --data.batch-size 16 --data.sub-batch-size 8 --data.subsets GlyphToName \
    --data.token-buckets 64 --data.image-buckets 2 --model.vocab-size 300)"

  wait_for_step 6
  echo "killing one of two tasks"
  kill -KILL "$(pid_of_task 1)"
  release
  wait_for_step 20
  echo "sending SIGTERM to the tasks"
  scancel --signal=TERM "$job"
  release
  wait_for_end

  for said in "a task was killed; back into the queue" "stopped by SIGTERM" "stopped in good order; back into the queue" \
    "going on from the checkpoint of step" "trained $steps steps"; do
    grep -qF "$said" "$log" || fail "the log does not say: $said"
  done
  [[ "$(field Restarts)" == 2 ]] || fail "it was started again $(field Restarts) times, not twice"
  local found
  found="$(sed 's/^{"step": \([0-9]*\),.*/\1/' "$run/metrics.jsonl" | tr '\n' ' ')"
  [[ "$found" == "$(seq -s ' ' "$steps") " ]] || fail "steps of metrics.jsonl: $found"
  echo "two tasks, one kill, one SIGTERM: $steps steps, each once"
}

# The value of a field of the job.
field() { scontrol show job "$job" | grep -oP "\b$1=\K\S+"; }

# The trainer that is task $1 of the job.
pid_of_task() {
  local process
  for process in /proc/[0-9]*; do
    # The launcher's own processes name the run too, but are not Python.
    if tr '\0' ' ' <"$process/cmdline" 2>/dev/null | grep -q "^[^ ]*python.* train .*--run-dir $run " &&
      tr '\0' '\n' <"$process/environ" 2>/dev/null | grep -qx "SLURM_PROCID=$1"; then
      basename "$process"
      return
    fi
  done
  fail "task $1 does not run"
}

wait_for_step() {
  local tries
  for ((tries = 0; tries < 1200; tries++)); do
    if [[ -f "$run/metrics.jsonl" ]] && grep -q "^{\"step\": $1," "$run/metrics.jsonl"; then
      return
    fi
    [[ "$(field JobState)" =~ ^(PENDING|CONFIGURING|RUNNING|COMPLETING)$ ]] || break
    sleep 0.3
  done
  fail "it did not come to step $1"
}

# A requeued job waits two minutes for the sake of broken nodes. Not here.
release() {
  local tries
  for ((tries = 0; tries < 300; tries++)); do
    # Before the node is idle again, it would refuse the job as one that it still has.
    if [[ "$(field JobState)" == PENDING && "$(sinfo -h -o %t)" == idle ]]; then
      sleep 3
      scontrol update JobId="$job" StartTime=now
      return
    fi
    [[ "$(field JobState)" =~ ^(PENDING|RUNNING|COMPLETING)$ ]] || break
    sleep 0.3
  done
  # A node that is slow to clean up: the job then waits its two minutes.
  [[ "$(field JobState)" == PENDING ]] || fail "it was not put back into the queue"
}

wait_for_end() {
  local tries
  for ((tries = 0; tries < 600; tries++)); do
    case "$(field JobState)" in
    COMPLETED) return ;;
    PENDING | CONFIGURING | RUNNING | COMPLETING) sleep 0.5 ;;
    *) break ;;
    esac
  done
  fail "it ended as $(field JobState)"
}

fail() {
  echo "slurm.sh: $1" >&2
  scontrol show job "$job" >&2 || true
  tail -n 60 "$log" >&2 || true
  exit 1
}

finish() {
  if [[ -n "$job" ]]; then
    scancel --quiet "$job" || true
  fi
  tests/launch/slurm_local.sh stop "$scratch/slurm"
  rm -rf "$scratch"
}

trap finish EXIT
main
