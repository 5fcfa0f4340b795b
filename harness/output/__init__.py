# SPDX-License-Identifier: Apache-2.0
"""What people get of a training: console, tracker, report, exports."""
