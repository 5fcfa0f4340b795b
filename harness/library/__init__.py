# SPDX-License-Identifier: Apache-2.0
"""padless from Python: commands as functions, and an estimator for scikit-learn."""
