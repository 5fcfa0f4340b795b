# Every node of every task makes one share of the dataset, with a process for each core; share 0 completes it.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}" # srun does not inherit it
export OMP_NUM_THREADS=1
tasks=${SLURM_ARRAY_TASK_COUNT:-1}
export first=$((${SLURM_ARRAY_TASK_ID:-0} % tasks * SLURM_JOB_NUM_NODES)) shares=$((tasks * SLURM_JOB_NUM_NODES))

# Each finished part has a marker. Of a dataset on remote storage ($output is empty) they are not counted.
markers() {
    [[ -z $output ]] || { find "$output" "$output.building" -name "*.json" 2> /dev/null || true; } | wc -l
}
began_with=$(markers)

step=
# shellcheck disable=SC2317 # the trap calls it
stop() {
    signals=$((signals + 1))
    echo "$job: asked to stop"
    kill -USR2 "$step" 2> /dev/null || true # srun hands it on, and TERM it does not
}
trap stop TERM INT

# Shares wait two minutes for what others are to make. In single quotes, because each node has its own SLURM_PROCID.
echo "$job, restart $restarts: $SRUN_CPUS_PER_TASK processes on each of $SLURM_JOB_NODELIST, shares from $first of $shares"
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --wait=0 --kill-on-bad-exit=0 \
    --label bash -c '((shares == 1)) || set -- "$@" --executor.share "$((first + SLURM_PROCID))/$shares"; exec "$@"' \
    padless "${python[@]}" -m preprocessing prepare --executor.workers "$SRUN_CPUS_PER_TASK" --executor.timeout_s 120 "$@" &
step=$!
wait_for "$step" # the code is the highest of all nodes

# Why the job must not start again, if there is a reason.
why_not() {
    local reason
    if ((code == 0)); then
        echo "done"
    elif ((!signals || (code >= 2 && code <= 4))); then
        echo "a line above says why; submitted again, it goes on"
    elif reason=$(decided) && [[ -n $reason ]]; then
        echo "$reason"
    elif [[ -n $output ]] && (($(markers) <= began_with)); then
        echo "not requeued, since this start finished nothing; give it more --time"
    elif ((restarts >= max_restarts)); then
        echo "not requeued, since it was restarted $restarts times already, as --restarts allows"
    fi
}
reason=$(why_not)
echo "$job: exit $code: ${reason:-requeued}"
if [[ -z $reason ]]; then
    trap - TERM INT
    scontrol requeue "$number"
elif ((!signals && first == 0 && tasks > 1)); then
    scancel --state=PENDING "$SLURM_ARRAY_JOB_ID" # tasks that have not begun are not needed any more
fi
exit "$code"
