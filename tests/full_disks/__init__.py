# SPDX-License-Identifier: Apache-2.0
"""A full disk at every place that writes."""
