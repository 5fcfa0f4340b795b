# SPDX-License-Identifier: Apache-2.0
"""Trains LSTM text classifiers under ``accelerate launch``: reads a dataset directory, writes a run directory."""
