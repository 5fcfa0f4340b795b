# srun does not inherit --cpus-per-task, and workers use one thread each.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"
export OMP_NUM_THREADS=1
export DASK_LOGGING__DISTRIBUTED="${DASK_LOGGING__DISTRIBUTED:-warning}"

dask_log="$PWD/$logs/$SLURM_JOB_NAME-$SLURM_JOB_ID-dask.log"
[[ $logs != /* ]] || dask_log="$logs/$SLURM_JOB_NAME-$SLURM_JOB_ID-dask.log"
meeting_point="$PWD/.padless-dask-$SLURM_JOB_ID"
scheduler_file="$meeting_point/scheduler.json"
rm -rf "$meeting_point" # left by a start of this job that was killed
mkdir "$meeting_point"
steps=()
echo "$job, restart $restarts: $SRUN_CPUS_PER_TASK workers on each of $SLURM_JOB_NODELIST;" \
    "Dask's log is $dask_log"

# Whatever is still there at the limit, SLURM ends with the job.
wait_for_steps() {
    for pid in "${steps[@]}"; do
        timeout 30 tail --pid="$pid" --follow /dev/null || return 0
    done
}

# Finished files lie in the dataset directory; on remote storage ($output is empty) they are not counted.
files() {
    [[ -z $output ]] || { find "$output" -type f 2> /dev/null || true; } | wc -l
}
began_with=$(files)

# Why the job must not start again, if there is a reason.
asked=
why_not() {
    local reason
    if (($1 == 0)); then
        echo "done"
    elif [[ -z $asked ]]; then
        echo "a line above says why; submitted again, it goes on"
    elif reason=$(decided) && [[ -n $reason ]]; then
        echo "$reason"
    elif [[ -n $output ]] && (($(files) <= began_with)); then
        echo "not requeued, since this start finished nothing; give it more --time"
    elif ((restarts >= max_restarts)); then
        echo "not requeued, since it was restarted $restarts times already, as --restarts allows"
    fi
}

finish() {
    local code=$? reason
    trap - EXIT
    trap '' TERM INT
    for pid in "${steps[@]}"; do
        kill -TERM "$pid" 2>/dev/null || true
    done
    wait_for_steps
    rm -rf "$meeting_point"
    reason=$(why_not "$code")
    echo "$job: exit $code: ${reason:-requeued}"
    [[ -n $reason ]] || scontrol requeue "$number"
}
trap finish EXIT
trap 'asked=1; echo "$job: asked to stop"; exit 143' TERM INT

# The scheduler shares a core of the first node; each node has one task that starts a worker per core.
srun --nodes=1 --ntasks=1 --ntasks-per-node=1 --overlap --open-mode=append --output="$dask_log" \
    "${python[@]}" -m distributed.cli.dask_scheduler --scheduler-file "$scheduler_file" --port 0 \
    --dashboard-address :0 &
steps+=("$!")
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --overlap --label \
    --open-mode=append --output="$dask_log" \
    "${python[@]}" -m distributed.cli.dask_worker --scheduler-file "$scheduler_file" --death-timeout 300 \
    --nworkers "$SRUN_CPUS_PER_TASK" --nthreads 1 --local-directory "${TMPDIR:-/tmp}" --no-dashboard &
steps+=("$!")

for ((second = 0; second < 120; second++)); do
    [[ ! -s "$scheduler_file" ]] || break
    kill -0 "${steps[0]}" 2>/dev/null || break
    sleep 1
done
if [[ ! -s "$scheduler_file" ]]; then
    tail -n 20 "$dask_log" >&2
    echo "error: no Dask scheduler after $second s; can '${python[*]} -m distributed.cli.dask_scheduler' start there?" >&2
    exit 1
fi

# In the background, so that the trap can act while we wait.
"${python[@]}" -m preprocessing prepare --executor.kind dask --executor.scheduler "$scheduler_file" "$@" &
pipeline=$!
steps+=("$pipeline")
wait "$pipeline"

# The dataset is there: a worker that does not leave when asked can no longer make the job fail.
timeout 30 "${python[@]}" -c 'import sys; from distributed import Client; Client(scheduler_file=sys.argv[1]).shutdown()' \
    "$scheduler_file" || true
wait_for_steps
