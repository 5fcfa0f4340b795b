# SPDX-License-Identifier: Apache-2.0
"""From a corpus to a dataset directory, in parts that survive an interruption."""
