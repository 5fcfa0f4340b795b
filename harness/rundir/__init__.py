# SPDX-License-Identifier: Apache-2.0
"""The run directory: every file name, every writer and every reader of it. ``layout`` lists the names."""
