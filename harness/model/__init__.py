# SPDX-License-Identifier: Apache-2.0
"""Embedding, recurrent layers, pooling, head."""
