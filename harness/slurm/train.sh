# srun does not inherit --cpus-per-task; the one task of a node gets every core that the job has there.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}"

# One process for each GPU, unless --processes says how many; one for each node where there are none.
gpus=${SLURM_GPUS_ON_NODE:-0}
((gpus > 0)) || set -- --device cpu "$@" # multi_node.yaml asks for GPUs
((per_node > 0)) || per_node=$((gpus > 0 ? gpus : 1))
export processes=$((per_node * SLURM_JOB_NUM_NODES))

# This script runs on the job's first node, and so does rank 0. Some clusters have node names that do not resolve.
# Each task of an array has a number of its own.
main_ip="${MAIN_IP:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}"
getent hosts "$main_ip" > /dev/null || main_ip=$(hostname)
export main_ip main_port=$((20000 + SLURM_JOB_ID % 10000))

# The step of the newest checkpoint, 0 without any; a checkpoint has its name once it is whole. Of many runs, whose
# directories lie in $run, the sum.
newest_step() {
    local folder path step total=0
    for folder in "$run" "$run"/*-*; do
        step=0
        for path in "$folder"/checkpoints/step-*; do
            if [[ $path =~ /step-0*([0-9]+)$ ]] && ((BASH_REMATCH[1] > step)); then
                step=${BASH_REMATCH[1]}
            fi
        done
        total=$((total + step))
    done
    echo "$total"
}

# The time limit or a preemption is near, or the job is being ended: save a checkpoint now. A rank that gets both the
# signal and the file stops once.
launchers=
# shellcheck disable=SC2317 # the trap calls it
stop() {
    signals=$((signals + 1))
    echo "$job: asked to stop"
    local status marked=
    for status in "$run"/status.json "$run"/*-*/status.json; do
        if grep -qs '"state": "running"' "$status"; then
            touch "${status%/*}/STOP" || true # a full disk must not end this script
            marked=1
        fi
    done
    [[ -n $marked || ! -d $run ]] || compgen -G "$run/*-*/status.json" > /dev/null || touch "$run/STOP" || true
    kill -USR2 "$launchers" 2> /dev/null || true
}
trap stop USR2 TERM

began_at="$(newest_step)"
echo "$job, restart $restarts: $processes processes on $SLURM_JOB_NODELIST, $SRUN_CPUS_PER_TASK cores" \
    "each; rank 0 is at $main_ip:$main_port; newest checkpoint: step $began_at"

# A launcher that is done waits at most --wait for those of the other nodes. In single quotes, because each node has its
# own SLURM_NODEID. --run comes last, so that it is the directory which is looked at here.
export words=${#python[@]} command
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --wait=300 \
    --kill-on-bad-exit=0 bash -c 'exec "${@:1:words}" -m harness "$command" --config_file accelerate/multi_node \
        --num_machines "$SLURM_JOB_NUM_NODES" --machine_rank "$SLURM_NODEID" --num_processes "$processes" \
        --main_process_ip "$main_ip" --main_process_port "$main_port" "${@:words+1}"' \
    padless "${python[@]}" "$@" --run "$run" &
launchers=$!
wait_for "$launchers" # the code is the highest of all nodes

now_at="$(newest_step)"
# Why the job must not start again, if there is a reason.
why_not() {
    local reason
    if ((code == 0)); then
        echo "done"
    elif ((code >= 2 && code <= 4)); then
        echo "a restart would not help; a line above says why"
    elif reason=$(decided) && [[ -n $reason ]]; then
        echo "$reason"
    elif ((now_at <= began_at && (now_at > 0 || restarts > 0))); then # one lost before its first is started once more
        echo "not requeued, since no checkpoint is later than step $began_at, where this start began"
    elif ((restarts >= max_restarts)); then
        echo "not requeued, since it was restarted $restarts times already, as --restarts allows"
    fi
}
reason="$(why_not)"
echo "$job: exit $code at step $now_at, $((now_at - began_at)) after that of the start:" \
    "${reason:-requeued}"
if [[ -z $reason ]]; then
    trap - USR2 TERM
    scontrol requeue "$number"
fi
exit "$code"
