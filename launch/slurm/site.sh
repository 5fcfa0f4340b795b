# shellcheck shell=bash
# shellcheck disable=SC2034 # start.sh, which reads this file, uses what it sets
# SPDX-License-Identifier: Apache-2.0
# What your site needs, read first by every job, on its first node; what is exported here reaches all nodes. The first
# command that fails ends the job with a sentence; a line that may fail ends in "|| true". Keep what your site has.
#
#     module load gcc cuda
#     source "$HOME/miniforge3/etc/profile.d/conda.sh" && conda activate padless
#     python=(apptainer exec --nv "$HOME/padless.sif" python) # a container: python may be several words
#     max_restarts=20                                         # of a job, by itself or by SLURM
#     processes_per_node=2                                    # of a training, where it is not one for each GPU
#     export MAIN_IP=10.0.0.1                                 # where names of nodes do not resolve
#
# Accounts, partitions and mail stand on the command line of sbatch, or in its variables:
#
#     export SBATCH_ACCOUNT=lab SBATCH_PARTITION=gpu          # in your shell, not here
if [[ -f .venv/bin/activate ]]; then
    # shellcheck disable=SC1091
    source .venv/bin/activate
fi
