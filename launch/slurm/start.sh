# shellcheck shell=bash
# The start of every job: count its starts, then read the file of the site.
: "${SLURM_JOB_ID:?submit this with sbatch}"
number=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
number=${number:-$SLURM_JOB_ID} # the number alone of one task means the whole array to SLURM
job="job $number"
restarts=${SLURM_RESTART_COUNT:-0}

# End the job with one sentence and a code.
refuse() {
    trap - EXIT
    echo "error: $job: $1" >&2
    exit "${2:-1}"
}

python=(python)
max_restarts=20      # of this job, by itself or by SLURM
# shellcheck disable=SC2034 # train.sbatch uses it
processes_per_node=0 # of a training; 0: one for each GPU, or one

# What the file exports reaches every process of the job, and it may set these three. It ends at the first command that
# fails.
site=${PADLESS_SITE:-launch/slurm/site.sh}
failed=
# shellcheck disable=SC2317 # the trap calls it
site_failed() {
    refuse "$site failed${failed:+ at $failed} with exit code $1; nothing else was run" "$(($1 > 0 ? $1 : 1))"
}
[[ -r $site ]] || refuse "$site cannot be read on $HOSTNAME; PADLESS_SITE names a file that every node sees"
trap 'site_failed "$?"' EXIT
trap 'failed="line $LINENO, ${BASH_COMMAND%%[[:cntrl:]]*},"' ERR
set -eE
# shellcheck disable=SC1090 # any file
source "$site"
code=$? failed= # it may have used set +e
((code == 0)) || site_failed "$code"
trap - EXIT ERR
set +E
set -euo pipefail

type -P "${python[0]}" > /dev/null || refuse "${python[0]}: no such program on $HOSTNAME; $site says which"
((restarts <= max_restarts)) ||
    refuse "not started, since it was restarted $restarts times and max_restarts allows $max_restarts; submit it again to go on"
if [[ -f padless/__main__.py ]]; then
    export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" # a checkout that is not installed
else
    export PYTHONSAFEPATH=1 # a user's folder may have a harness of its own
fi

# Whether a command has the option of this name.
has_option() {
    local name=$1
    shift
    [[ " $* " == *" --$name"[=\ ]* ]]
}

# What -o, or the option of this name, gives a command.
output_option() {
    local name=$1 word previous='' value=
    shift
    for word in "$@"; do
        [[ $previous != -o && $previous != "--$name" ]] || value=$word
        [[ $word != "--$name="* && $word != -o=* ]] || value=${word#*=}
        previous=$word
    done
    echo "$value"
}

# The reason if SLURM itself ends or requeues this job, else nothing. A job that scancel ends is not RUNNING.
# shellcheck disable=SC2317 # jobs that requeue themselves call it
decided() {
    if [[ $(squeue --noheader --jobs="$number" --format=%T) != RUNNING ]]; then
        echo "SLURM is ending the job"
    elif scontrol show job "$number" | grep -q "PreemptTime=[0-9]"; then
        echo "preempted, so SLURM requeues it" # a second requeue, by the job, would start it again after its end
    fi
}

# A signal interrupts wait, not the process: then wait again. Sets code.
signals=0 code=0
wait_for() {
    local heard=-1
    while [[ $heard != "$signals" ]]; do
        heard=$signals code=0
        wait "$1" || code=$?
    done
}
