# SPDX-License-Identifier: Apache-2.0
"""Trains LSTM text classifiers under ``accelerate launch``: reads a dataset directory, writes a run directory."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")
"""How often an OpenMP thread looks for work before it sleeps, set before torch is imported. By default it spins for
milliseconds, which on a machine with other work makes two threads slower than one."""
