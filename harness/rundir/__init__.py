# SPDX-License-Identifier: Apache-2.0
"""The run directory: its file names (listed in ``layout``), and all code that writes and reads it."""
