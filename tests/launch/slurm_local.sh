#!/usr/bin/env bash
# A real SLURM of one node on this host, to try launchers on: slurm_local.sh start|stop DIRECTORY. Needs root and Debian's
# munge and slurm-wlm. `start` prints the configuration for SLURM_CONF.
set -euo pipefail
action="${1:?start or stop}" dir="$(realpath -m "${2:?a directory of its own}")"

start() {
  mkdir -p "$dir"/{state,spool,log} /run/munge /var/log/munge /var/lib/munge
  chown munge:munge /run/munge /var/log/munge /var/lib/munge
  if [[ ! -s /etc/munge/munge.key ]]; then
    (umask 077 && head -c 1024 /dev/urandom >/etc/munge/munge.key)
    chown munge:munge /etc/munge/munge.key
  fi
  # Not SLURM's to end: it may have been there before.
  [[ -S /run/munge/munge.socket.2 ]] || runuser -u munge -- munged --force
  local host
  host="$(hostname -s)"
  cat >"$dir/slurm.conf" <<CONF
ClusterName=local
SlurmctldHost=$host
SlurmUser=root
AuthType=auth/munge
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
    if sinfo -h -o %t | grep -q idle; then
      echo "$SLURM_CONF"
      return
    fi
    sleep 0.5
  done
  tail "$dir"/log/*.log >&2
  echo "slurm_local.sh: the node did not come up" >&2
  return 1
}

stop() {
  local daemon
  for daemon in slurmd slurmctld; do
    if [[ -s "$dir/$daemon.pid" ]]; then
      kill "$(cat "$dir/$daemon.pid")" || true
    fi
  done
  for _ in {1..40}; do
    # They remove their files when they have written the last.
    [[ -e "$dir/slurmd.pid" || -e "$dir/slurmctld.pid" ]] || return 0
    sleep 0.25
  done
}

"$action"
