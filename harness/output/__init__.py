# SPDX-License-Identifier: Apache-2.0
"""W&B and other trackers, each in its own process."""
