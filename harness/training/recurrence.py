# SPDX-License-Identifier: Apache-2.0
"""Which layout and dtype the recurrent layers compute in, and whether the device can."""

from __future__ import annotations

import torch
from torch.nn.utils.rnn import pack_padded_sequence

from harness.batch import Layout
from harness.config import Choice, RunConfig
from harness.distributed.precision import DTYPES, layout_on, recurrent_dtype
from harness.distributed.session import Session
from harness.model.recurrent import VariableLengthLSTM
from padless.core.errors import ConfigError
from padless.core.untrusted import one_line

TRIAL_LENGTHS = (3, 3)


def choose_recurrence(config: RunConfig, session: Session, lstm: VariableLengthLSTM) -> tuple[Layout, Choice, str]:
    """Layout, dtype, and why this layout. Raises the same ``ConfigError`` on all ranks, which all call this, if a small
    pass fails on the device of the weights.
    """
    layout, reason = config.recurrence, "asked for"
    if layout == "auto":
        layout, reason = layout_on(session.device, lstm.hidden_size)
    dtype = recurrent_dtype(session.arithmetic, session.device.type, layout)
    with session.world.raise_together("trying the recurrent layers"):
        try_recurrence(lstm, layout, dtype)
    return layout, dtype, reason


def try_recurrence(lstm: VariableLengthLSTM, layout: Layout, wanted: Choice) -> None:
    """Raise ``ConfigError`` if a small forward and backward pass of the layers in ``wanted`` fails on the device of the
    weights; it changes neither weights nor gradients.
    """
    weight, dtype, lengths = next(lstm.parameters()), DTYPES[wanted.value], torch.tensor(TRIAL_LENGTHS)
    padded = torch.full((max(TRIAL_LENGTHS), len(lengths), weight.shape[1]), 0.5, device=weight.device)
    try:
        with torch.enable_grad(), torch.autocast(weight.device.type, enabled=False):
            if layout == "packed":
                outputs = lstm.forward_packed(pack_padded_sequence(padded, lengths), None, dtype)[0].data
            else:
                outputs = torch.cat(lstm.forward_padded(padded, lengths.to(weight.device), None, dtype))
            torch.autograd.grad(outputs.float().sum(), [*lstm.parameters()])
    except RuntimeError as error:
        problem = f"the recurrent layers fail in {wanted.value} on {weight.device.type} ({one_line(error)})"
        raise ConfigError(f"precision: {problem}; use --precision fp32") from error
