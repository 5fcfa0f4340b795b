# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Read first by every job that is submitted with --hook, on its first node; what it exports reaches all of them. The
# first command that fails ends the job with a sentence. An example to copy: keep the line that your site has.
#
#     module load gcc cuda
#     source "$HOME/miniforge3/etc/profile.d/conda.sh" && conda activate padless
#     python=(apptainer exec --nv "$HOME/padless.sif" python)   # a container: python may be several words
if [[ -f .venv/bin/activate ]]; then
    # shellcheck disable=SC1091
    source .venv/bin/activate
fi
