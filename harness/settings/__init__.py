# SPDX-License-Identifier: Apache-2.0
"""The parts of a training's configuration; ``harness.config`` puts them together."""
