# SPDX-License-Identifier: Apache-2.0
"""Before any rank exists, or without one: the launcher, the doctor, the checkpoints of a run."""
