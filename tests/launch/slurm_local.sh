#!/usr/bin/env bash
# A real SLURM of one node on this host, to try launchers on: slurm_local.sh start|stop DIRECTORY. Needs root and Debian's
# munge and slurm-wlm. `start` prints the configuration for SLURM_CONF.
set -euo pipefail
action="${1:?start or stop}" dir="$(realpath -m "${2:?a directory of its own}")"

start() {
  mkdir -p "$dir"/{state,spool,log,munge}
  start_munge
  local host
  host="$(hostname -s)"
  cat >"$dir/slurm.conf" <<CONF
ClusterName=local
SlurmctldHost=$host
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.log
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=10
NodeName=$host CPUs=$(nproc) State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
  export SLURM_CONF="$dir/slurm.conf"
  slurmctld >&2
  sleep 2
  slurmd >&2
  for _ in {1..40}; do
    if timeout 10 sinfo -h -o %t | grep -q idle; then
      echo "$SLURM_CONF"
      return
    fi
    sleep 0.5
  done
  tail "$dir"/log/*.log >&2
  echo "slurm_local.sh: the node did not come up" >&2
  return 1
}

# A munged of its own: the host's may be absent, or dead with its socket left behind, and is not ours to start or to end.
start_munge() {
  (umask 077 && head -c 1024 /dev/urandom >"$dir/munge/key")
  # --force: it would rather not serve under a directory that others cannot enter. All who ask it here are root.
  munged --force --socket="$dir/munge/socket" --key-file="$dir/munge/key" --pid-file="$dir/munged.pid" \
    --log-file="$dir/log/munged.log" --seed-file="$dir/munge/seed" >&2
  if ! timeout 10 munge --no-input --socket="$dir/munge/socket" >/dev/null; then
    tail "$dir/log/munged.log" >&2
    echo "slurm_local.sh: munged does not answer" >&2
    return 1
  fi
}

stop() {
  local daemon
  for daemon in slurmd slurmctld munged; do
    if [[ -s "$dir/$daemon.pid" ]]; then
      kill "$(cat "$dir/$daemon.pid")" || true
    fi
  done
  for _ in {1..40}; do
    # They remove their files when they have written the last.
    [[ -e "$dir/slurmd.pid" || -e "$dir/slurmctld.pid" || -e "$dir/munged.pid" ]] || return 0
    sleep 0.25
  done
}

"$action"
