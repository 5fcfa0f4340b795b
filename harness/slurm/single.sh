# One process, on the job's only node.
child=
# shellcheck disable=SC2317 # the trap calls it
stop() {
    signals=$((signals + 1))
    echo "$job: asked to stop"
    kill -TERM "$child" 2> /dev/null || true
}
trap stop TERM INT

echo "$job, restart $restarts: $command on $SLURM_JOB_NODELIST"
"${python[@]}" -m harness "$command" "$@" &
child=$!
wait_for "$child"
if ((code == 0)); then
    echo "$job: exit 0: done"
else
    echo "$job: exit $code: a line above says why"
fi
exit "$code"
