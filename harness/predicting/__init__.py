# SPDX-License-Identifier: Apache-2.0
"""Predictions for files of any size: cut into parts, each of which is made once, by whoever is free."""
