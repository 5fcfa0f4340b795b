#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A real SLURM cluster of two nodes, n1 and n2, on this machine, for the tests beside this file:
#
#     tests/slurm/cluster.sh start     root and Debian's slurm-wlm and munge; a running cluster is used again
#     tests/slurm/cluster.sh stop
#
# Everything it writes is below one directory, and its ports and keys are its own: another SLURM on this machine is
# left alone. To talk to it by hand: export SLURM_CONF=/tmp/padless-slurm/slurm.conf
set -euo pipefail

STATE=${PADLESS_SLURM:-/tmp/padless-slurm}
START_LIMIT_S=60
STOP_LIMIT_S=20
export SLURM_CONF=$STATE/slurm.conf
PATH=$PATH:/usr/sbin:/sbin

write_configuration() {
    cat > "$SLURM_CONF" <<CONF
ClusterName=padless
SlurmctldHost=localhost
SlurmctldPort=26817
SlurmUser=root
StateSaveLocation=$STATE/state
SlurmdSpoolDir=$STATE/spool-%n
SlurmctldPidFile=$STATE/slurmctld.pid
SlurmdPidFile=$STATE/slurmd-%n.pid
SlurmctldLogFile=$STATE/slurmctld.log
SlurmdLogFile=$STATE/slurmd-%n.log
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job waits before it starts again: 120 s unless set.
AuthInfo=socket=$STATE/munge.socket,cred_expire=5
# Nothing here needs cgroups, systemd or a second machine.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
# Two cores or twenty: each node says it has two, so that jobs of two tasks look the same everywhere.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# A job in "high" takes the nodes from jobs in "low". These get the signal that they asked for with --signal and have
# GraceTime to leave; then they are requeued, whatever code they left with.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PreemptParameters=send_user_signal
# Seconds where a production cluster has minutes.
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0,default_queue_depth=100
MessageTimeout=10
KillWait=5
CompleteWait=0
OverTimeLimit=0
ReturnToService=2
JobRequeue=1
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port=26818 CPUs=2
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port=26819 CPUs=2
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=30 DefaultTime=30
PartitionName=high Nodes=n1,n2 PriorityTier=10 PreemptMode=OFF DefaultTime=30
CONF
    echo "CgroupPlugin=disabled" > "$STATE/cgroup.conf"
}

start() {
    if answers; then
        echo "slurm: already running"
        return
    fi
    for program in munged slurmctld slurmd sinfo; do
        command -v $program > /dev/null || fail "$program is missing: apt-get install slurm-wlm munge"
    done
    [[ $EUID == 0 ]] || fail "only root can start it"
    stop
    mkdir -p "$STATE/state" "$STATE/spool-n1" "$STATE/spool-n2"
    chmod 755 "$STATE"
    install --mode=666 /dev/null "$STATE/turn" # tests take turns by locking it
    write_configuration
    (umask 077 && head -c 128 /dev/urandom > "$STATE/munge.key")
    munged --socket="$STATE/munge.socket" --key-file="$STATE/munge.key" --pid-file="$STATE/munged.pid" \
        --log-file="$STATE/munged.log" --seed-file="$STATE/munge.seed"
    slurmctld
    slurmd -N n1
    slurmd -N n2
    for ((second = 0; second < START_LIMIT_S; second++)); do
        if answers; then
            echo "slurm: n1 and n2 are there after $second s; SLURM_CONF=$SLURM_CONF"
            return
        fi
        sleep 1
    done
    tail -n 20 "$STATE"/*.log >&2
    fail "n1 and n2 are not both idle after $START_LIMIT_S s"
}

# Whether both nodes are there to take a job or at work on one.
answers() {
    [[ -f $SLURM_CONF ]] || return 1
    [[ $(timeout 5 sinfo --noheader --Node --partition=low --format=%t 2> /dev/null) =~ ^(idle|alloc|mix|comp)$'\n'(idle|alloc|mix|comp)$ ]]
}

stop() {
    [[ -d $STATE ]] || return 0
    if answers; then
        timeout 10 scancel --quiet --user=root || true
    fi
    for daemon in slurmd-n1 slurmd-n2 slurmctld munged; do
        end "$STATE/$daemon.pid"
    done
    rm -rf "$STATE"
}

# End the process of a pid file; by force when it does not listen.
end() {
    local pid
    pid=$(cat "$1" 2> /dev/null) || return 0
    for ((tenth = 0; tenth < STOP_LIMIT_S * 10; tenth++)); do
        kill -TERM "$pid" 2> /dev/null || return 0
        sleep 0.1
    done
    kill -KILL "$pid" 2> /dev/null || true
}

fail() {
    echo "error: slurm: $1" >&2
    exit 1
}

case ${1:-} in
    start) start ;;
    stop) stop ;;
    *) fail "usage: tests/slurm/cluster.sh start | stop" ;;
esac
