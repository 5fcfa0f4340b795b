# SPDX-License-Identifier: Apache-2.0
"""padless measured beside what people use today: ``python -m benchmarks NAME``. Neither package imports it."""
