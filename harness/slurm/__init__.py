# SPDX-License-Identifier: Apache-2.0
"""Jobs for a SLURM cluster: their scripts from strings alone, and their submission."""
