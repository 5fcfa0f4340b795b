# SPDX-License-Identifier: Apache-2.0
"""The one text→ids function."""
