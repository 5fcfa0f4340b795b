# SPDX-License-Identifier: Apache-2.0
"""Run directories in, one HTML page out."""
