# SPDX-License-Identifier: Apache-2.0
"""Weights in, predictions out."""
