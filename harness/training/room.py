# SPDX-License-Identifier: Apache-2.0
"""Whether a network can be held at all, computed from its configuration before anything is allocated."""

from __future__ import annotations

from harness.config import RunConfig
from harness.model.size import parameters_of
from preprocessing.base.errors import ConfigError
from preprocessing.base.machine import memory_bytes
from preprocessing.base.printable import size
from preprocessing.dataset.shards import Manifest

DRAWN, TRAINED, AVERAGED = 4, 16, 4
"""Bytes of a parameter: in memory, where it is drawn; with its gradient and Adam's two averages; and its average."""


def check_room(config: RunConfig, manifest: Manifest, device_bytes: int | None = None, *, processes: int = 1) -> None:
    """Raise ``ConfigError`` for a network whose weights alone are more than the processes of this machine can have.

    ``device_bytes`` is what the device of the training has; None: it is not known yet, and may be another than this
    machine's memory, in which the weights are drawn in any case. ``processes`` of this machine, each with weights of
    its own, share that memory, or that device.
    """
    known = device_bytes is not None or config.device == "cpu"
    total = memory_bytes() if device_bytes is None else device_bytes
    parameters = parameters_of(config, manifest)
    each = TRAINED + (0 if config.optim.ema is None else AVERAGED) if known else DRAWN
    if each * parameters * processes <= total:
        return
    what = "weights, gradients and the optimizer's averages" if known else "weights"
    taken = size(each * parameters)
    if processes > 1:
        taken = f"{size(each * parameters * processes)}, {taken} in each of {processes} processes"
    raise ConfigError(
        f"model: {parameters:,} parameters take {taken} ({what}), and there are {size(total)} here; "
        f"lower model.hidden_size ({config.model.hidden_size:,}), model.embedding_dim "
        f"({config.model.embedding_dim:,}) or model.num_layers ({config.model.num_layers})"
    )
