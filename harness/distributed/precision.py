# SPDX-License-Identifier: Apache-2.0
"""The device a rank trains on, the arithmetic that will really run there, and threads and memory of a CPU process."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

import torch

from harness.batch import Layout
from harness.config import Choice, Precision
from harness.distributed import devices
from harness.distributed.world import read_local_rank, read_local_world_size
from harness.rundir.records import LAUNCH_ID
from padless.core.errors import ConfigError
from padless.core.processes import available_cores
from padless.core.untrusted import one_line

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
TF32_FROM = (8, 0)
"""The first compute capability with TF32."""
CUDNN_WITH_BF16 = 91_300
"""The first cuDNN whose recurrent layers torch runs in bf16."""
PERSISTENT_HIDDEN, PERSISTENT_FORWARD_HIDDEN = 128, 192
"""Up to this many hidden units torch has cuDNN keep the weights of padded input on chip, forward and backward; up to
the second number only forward. Never of packed input."""
M_TRIM_THRESHOLD, M_MMAP_MAX, NEVER = -1, -4, -1
"""Parameters of mallopt(3), from malloc.h."""
CPU_INFO = Path("/proc/cpuinfo")
ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""Environment variables with a user's settings of torch's allocator on CUDA; any torch reads the first one."""


def choose_device(wanted: str) -> Choice:
    """``cpu`` or ``cuda`` on this machine. Raises ``ConfigError`` as ``devices.choose`` does."""
    return Choice(*devices.choose(wanted, read_local_world_size(), devices.find_cuda()))


def choose_precision(wanted: Precision, device_type: str) -> Choice:
    """What training computes in. Raises ``ConfigError`` naming what the device can run, if it cannot run ``wanted``."""
    able = list_precisions(device_type)
    launcher_precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    precision, reason = str(wanted), "asked for"
    if wanted == "auto" and launcher_precision != "no":
        precision, reason = launcher_precision, "accelerate launch asked for it"
    if precision == "auto":
        kind = "GPU" if device_type == "cuda" else "CPU"
        if "bf16" in able:
            return Choice("bf16", f"the {kind} computes it natively")
        return Choice("fp32", f"this {kind} has no native bf16")
    if precision not in able:
        raise ConfigError(f"precision: {precision} cannot run on {device_type} here; it can run {', '.join(able)}")
    return Choice(precision, reason)


def list_precisions(device_type: str) -> list[str]:
    """The arithmetics for which this kind of device has instructions."""
    able = ["fp32"]
    if device_type == "cuda":
        rank = read_local_rank()
        try:
            torch.cuda.set_device(rank)  # else the check opens a context on the first device
        except RuntimeError as error:
            problem = f"CUDA device {rank} of this machine cannot be used ({one_line(error)})"
            raise ConfigError(f"device: cuda: {problem}; is it in exclusive mode, and another process on it?") from None
        able.append("fp16")
        if torch.cuda.get_device_capability() >= TF32_FROM:
            able.append("tf32")
        if torch.cuda.is_bf16_supported(including_emulation=False):
            able.append("bf16")
    elif torch.backends.mkldnn.is_available() and has_cpu_bf16():
        able.append("bf16")
    return able


def has_cpu_bf16() -> bool:
    """Whether the processor has instructions for bf16, as the kernel lists them on x86 and ARM."""
    try:
        features = re.search(r"^(flags|Features)\s*:(.*)$", CPU_INFO.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return False
    return features is not None and not {"avx512_bf16", "bf16"}.isdisjoint(features[2].split())


def configure_threads(device_type: str, num_threads: int | None = None, *, has_one: bool = False) -> Choice:
    """Set how many threads this process computes with: ``num_threads`` if given; else on a CPU one, where ``has_one``
    says so, or a share of the cores. torch's own number stays on CUDA, and where
    ``OMP_NUM_THREADS`` is not that of ``padless train``.
    """
    if num_threads is not None:
        count, reason = num_threads, "asked for"
    elif device_type == "cpu" and has_one:
        count, reason = 1, "each process has one"
    elif device_type != "cpu":
        return Choice(str(torch.get_num_threads()), "torch's default; the work is on the device")
    elif devices.OMP in os.environ and LAUNCH_ID not in os.environ:
        return Choice(str(torch.get_num_threads()), f"as {devices.OMP} says")
    else:
        count = max(1, available_cores() // read_local_world_size())
        reason = "this process's share of the cores"
    torch.set_num_threads(count)
    return Choice(str(count), reason)


def keep_memory() -> None:
    """Have malloc reuse freed blocks of any size in place of giving them back, where the C library can.

    glibc maps a large block when it is asked for one and unmaps it when it is freed, and the kernel fills every page of
    the next one with zeros (mallopt(3)). An LSTM needs such blocks for the gates of each batch: on two cores, at batch
    64, a third of a step went into these pages.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, NEVER)


def configure_cuda() -> None:
    """Settings of CUDA's libraries, which they read when they are first used; a user's own stay.

    torch's allocator extends its segments, since batches of ever other lengths leave gaps in fixed ones. cuBLAS has a
    workspace for each stream, so that two streams give the same results in each run.
    """
    if not any(name in os.environ for name in ALLOCATOR):
        os.environ[ALLOCATOR[0]] = "expandable_segments:True"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def set_tf32(allowed: bool) -> None:
    """Whether matrix products and cuDNN may round factors in fp32 to TF32 on CUDA. Without, evaluation repeats anywhere
    to 1e-5.
    """
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def takes_tf32(precision: str, device_type: str) -> bool:
    """Whether a run in ``precision`` computes products in TF32: if asked for, or if recurrent layers have no bf16."""
    return precision == "tf32" or (precision == "bf16" and device_type == "cuda" and not cudnn_takes_bf16())


def layout_on(device: torch.device, hidden_size: int) -> tuple[Layout, str]:
    """The layout for recurrent layers on a device that is usually the faster one, and why: cuDNN's kernel for small
    padded layers is three times as fast as its packed one at 16 rows (figures in pull request 62143 of PyTorch).
    """
    if device.type != "cuda":
        return "padded", "the fast path on a CPU"
    if hidden_size <= PERSISTENT_HIDDEN:
        return "padded", f"cuDNN's persistent kernels take padded input up to {PERSISTENT_HIDDEN} hidden units"
    return "packed", f"real tokens only, with more than {PERSISTENT_HIDDEN} hidden units"


def recurrent_dtype(precision: str, device_type: str, layout: Layout) -> Choice:
    """What the recurrent layers compute in if a run computes in ``precision``, and why: the one rule for all devices.

    The model casts to this dtype itself; autocast is not used.

    ========= ============================== ==========================
    precision CUDA                           CPU
    ========= ============================== ==========================
    fp32      fp32                           fp32
    tf32      fp32, with products in TF32    not there
    bf16      bf16 if cuDNN takes it, or     bf16 when padded, or fp32
              fp32, with products in TF32
    fp16      fp16, with loss scaling        not there
    ========= ============================== ==========================
    """
    if precision in ("fp32", "tf32"):
        return Choice("fp32", "as the weights" if precision == "fp32" else "products in TF32")
    if precision == "fp16":
        return Choice("fp16", "with loss scaling")
    if device_type == "cuda":
        if cudnn_takes_bf16():
            return Choice("bf16", f"cuDNN is {torch.backends.cudnn.version()}, and torch {torch.__version__} uses it")
        needed = f"that needs torch 2.10 and cuDNN {CUDNN_WITH_BF16}"
        reason = f"torch {torch.__version__} does not use cuDNN for bf16: {needed}"
        return Choice("fp32", f"{reason}; products in TF32")
    if layout == "packed":
        return Choice("fp32", "oneDNN takes no packed input, and torch's own kernels are no faster in bf16")
    return Choice("bf16", "oneDNN takes padded bf16 input")


def cudnn_takes_bf16() -> bool:
    """Whether torch passes recurrent layers in bf16 to cuDNN on the current CUDA device, not to its own slow kernels.

    torch requires both: a cuDNN that has them, and its own operator ``cudnn_is_acceptable``, which is False for bf16
    before torch 2.10, where it had no such layers (PyTorch's pull request 164411). ``torch.backends.cudnn`` has a
    function of that name that is always False for bf16.
    """
    sample = torch.empty(1, dtype=torch.bfloat16, device="cuda")
    return (torch.backends.cudnn.version() or 0) >= CUDNN_WITH_BF16 and torch.cudnn_is_acceptable(sample)
