# SPDX-License-Identifier: Apache-2.0
"""The TF-IDF baseline: scikit-learn over the shards, measured on the same rows as a network."""
