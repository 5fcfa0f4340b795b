# SPDX-License-Identifier: Apache-2.0
"""Labelled texts, wherever and however they lie."""
