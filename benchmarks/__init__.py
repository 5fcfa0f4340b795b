# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of padless and common alternatives: ``python -m benchmarks NAME``. Neither package imports it."""
