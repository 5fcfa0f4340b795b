# SPDX-License-Identifier: Apache-2.0
"""The trainer, and the run around it."""
