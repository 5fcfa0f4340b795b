# SPDX-License-Identifier: Apache-2.0
"""From dataset shards to device batches: which rows form a step, and how they get there."""
