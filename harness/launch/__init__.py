# SPDX-License-Identifier: Apache-2.0
"""Before any rank exists: the launcher of one training or many."""
