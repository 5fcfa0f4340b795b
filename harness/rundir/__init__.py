# SPDX-License-Identifier: Apache-2.0
"""The run directory: every file name, writer and reader of it."""
