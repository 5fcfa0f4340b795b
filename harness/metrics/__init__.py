# SPDX-License-Identifier: Apache-2.0
"""Logits and labels in, figures out: pure numpy."""
