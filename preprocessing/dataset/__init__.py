# SPDX-License-Identifier: Apache-2.0
"""The dataset directory: shards, manifest, remote copies."""
