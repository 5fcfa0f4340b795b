# SPDX-License-Identifier: Apache-2.0
"""What both packages stand on: errors, atomic files, locks, the command line."""
