# SPDX-License-Identifier: Apache-2.0
"""What a process does among others: devices, process groups, signals, leaving."""
