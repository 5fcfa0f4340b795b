# SPDX-License-Identifier: Apache-2.0
"""What a user would pick instead of a network: scikit-learn over the shards, measured on the same rows."""
