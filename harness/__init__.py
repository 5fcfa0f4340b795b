# SPDX-License-Identifier: Apache-2.0
"""The trainer: LSTM text classifiers under ``accelerate launch``, from a dataset directory to a run directory."""
