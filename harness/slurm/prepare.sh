# Every node of every task works, one process for each core; the first task of an array, or the only one, also leads.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}" # srun does not inherit it
export OMP_NUM_THREADS=1
queue="$PWD/.padless-${number%_*}" # what is to be done
leads=$((${SLURM_ARRAY_TASK_ID:-0} == 0))
((!leads)) || rm -rf "$queue" # left by a start of this job that was killed
echo "$job, restart $restarts: $SRUN_CPUS_PER_TASK processes on each of $SLURM_JOB_NODELIST"

# Finished files lie in the dataset directory; on remote storage ($output is empty) they are not counted.
files() {
    [[ -z $output ]] || { find "$output" -type f 2> /dev/null || true; } | wc -l
}
began_with=$(files)

# Why the job must not start again, if there is a reason. A task that lost the one that leads comes back with it.
asked=
why_not() {
    local reason
    if (($1 == 0)); then
        echo "done"
    elif ((!leads)) && [[ -z $(squeue --noheader --jobs="${number%_*}_0" --format=%T 2> /dev/null) ]]; then
        echo "the first task of the array has ended"
    elif ((leads)) && [[ -z $asked ]]; then
        echo "a line above says why; submitted again, it goes on"
    elif reason=$(decided) && [[ -n $reason ]]; then
        echo "$reason"
    elif ((leads)) && [[ -n $output ]] && (($(files) <= began_with)); then
        echo "not requeued, since this start finished nothing; give it more --time"
    elif ((restarts >= max_restarts)); then
        echo "not requeued, since it was restarted $restarts times already, as --restarts allows"
    fi
}

# Other tasks that have not begun are not needed after the end; those that have leave when they see it.
dismiss() {
    touch "$queue/ended" 2> /dev/null || true
    [[ $number != "$SLURM_JOB_ID" ]] || return 0
    scancel --state=PENDING "${number%_*}" || true
    for ((second = 0; second < 60; second += 2)); do
        (($(squeue --noheader --states=RUNNING --jobs="${number%_*}" | wc -l) > 1)) || break
        sleep 2
    done
}

finish() {
    local code=$? reason
    trap - EXIT
    trap '' TERM INT
    ((!leads)) || [[ -n $asked ]] || dismiss
    [[ -z $asked ]] || kill -USR2 "${steps[@]}" 2> /dev/null || true # srun hands it on, and TERM it does not
    for pid in "${steps[@]}"; do # what is still there at the limit, SLURM ends with the job
        timeout 30 tail --pid="$pid" --follow /dev/null || break
    done
    ((!leads)) || rm -rf "$queue" || true
    reason=$(why_not "$code")
    echo "$job: exit $code: ${reason:-requeued}"
    [[ -n $reason ]] || scontrol requeue "$number"
}
steps=()
trap finish EXIT
trap 'asked=1; echo "$job: asked to stop"; exit 143' TERM INT

# Eight tasks start in a second, so that they do not all read Python's files at once.
((leads)) || sleep $((RANDOM % (1 + SLURM_ARRAY_TASK_COUNT / 8)))
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --kill-on-bad-exit=0 --label \
    "${python[@]}" -m preprocessing work "$queue" --processes "$SRUN_CPUS_PER_TASK" --timeout_s 180 &
steps+=("$!")
if ((leads)); then
    "${python[@]}" -m preprocessing prepare --executor.kind folder --executor.scheduler "$queue" "$@" &
    steps+=("$!")
fi
wait "${steps[-1]}" # in the background, so that the trap can act meanwhile
