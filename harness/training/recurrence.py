# SPDX-License-Identifier: Apache-2.0
"""Which layout and dtype the recurrent layers compute in, and whether the device can."""

from __future__ import annotations

from harness.batch import Layout
from harness.config import Choice, RunConfig
from harness.distributed.precision import (
    DTYPES,
    PERSISTENT_FORWARD_HIDDEN,
    PERSISTENT_HIDDEN,
    layout_on,
    recurrent_dtype,
)
from harness.distributed.session import Session
from harness.model.recurrent import VariableLengthLSTM, try_recurrence
from padless.core.errors import ConfigError


def choose_recurrence(config: RunConfig, session: Session, lstm: VariableLengthLSTM) -> tuple[Layout, Choice, str]:
    """Layout, dtype, and why this layout. Raises the same ``ConfigError`` on all ranks, which all call this, if a small
    pass fails on the device of the weights.
    """
    layout, reason = config.recurrence, "asked for"
    if layout == "auto":
        layout, reason = layout_on(session.device, lstm.hidden_size)
    elif layout == "padded" and session.device.type == "cuda":
        check_padded(lstm.hidden_size)
    dtype = recurrent_dtype(session.arithmetic, session.device.type, layout)
    with session.world.raise_together("trying the recurrent layers"):
        try_recurrence(lstm, layout, DTYPES[dtype.value])
    return layout, dtype, reason


def check_padded(hidden_size: int) -> None:
    """Raise ``ConfigError`` for a size at which torch has cuDNN compute padded input by one algorithm forward, and by
    another one backward.
    """
    if PERSISTENT_HIDDEN < hidden_size <= PERSISTENT_FORWARD_HIDDEN:
        raise ConfigError(
            f"recurrence: padded: with {hidden_size} hidden units cuDNN would compute forward and backward by two "
            f"algorithms; take packed or auto, or hidden units up to {PERSISTENT_HIDDEN} or above "
            f"{PERSISTENT_FORWARD_HIDDEN}"
        )
