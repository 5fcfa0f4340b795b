# SPDX-License-Identifier: Apache-2.0
"""Reads labelled texts of any supported format, local or remote."""
