# SPDX-License-Identifier: Apache-2.0
"""Offline preprocessing: turns a corpus of labelled texts into a directory of Arrow shards of padded id sequences."""
