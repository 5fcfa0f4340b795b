# SPDX-License-Identifier: Apache-2.0
"""Offline preprocessing: a corpus of labelled texts becomes a directory of Arrow shards of padded id sequences."""
