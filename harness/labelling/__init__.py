# SPDX-License-Identifier: Apache-2.0
"""A teacher's probabilities for the rows of a dataset, from which another network learns."""
