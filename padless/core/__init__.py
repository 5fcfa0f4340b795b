# SPDX-License-Identifier: Apache-2.0
"""Modules that both packages use: errors, atomic files, locks, the command line."""
