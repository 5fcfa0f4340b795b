# SPDX-License-Identifier: Apache-2.0
"""The version of padless: ``pyproject.toml`` reads it here, so that a checkout that nobody installed has one too."""

VERSION = "0.1.0"
