# SPDX-License-Identifier: Apache-2.0
"""What tests share: datasets, runs, ranks, kills, servers."""
