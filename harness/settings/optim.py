# SPDX-License-Identifier: Apache-2.0
"""Keys of the optimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from harness.settings.auto import FloatOrAuto, is_auto
from preprocessing.base.errors import require

MOST_POWER = 4
"""Beyond it one feature of a text is all that counts."""
FARTHEST = 100
"""Largest perturbation radius, in units of a typical word vector's norm."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Adam and the learning rate as a function of the optimizer step."""

    lr: FloatOrAuto = 2e-3
    """Highest learning rate. auto: by the rows of a step and the classes."""
    warmup: float = 0.05
    """Share of all steps during which the learning rate climbs to ``lr``."""
    decay: Literal["none", "linear", "cosine"] = "linear"
    """How the learning rate falls to zero between the warm-up and the last step."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW), on matrices and not on biases."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's averaging factors for the gradient and its square."""
    clip_norm: float | None = 1.0
    """Gradients are scaled down to this norm; null leaves them as they are."""
    ema: FloatOrAuto | None = None
    """Average the weights over steps with this factor (0.999, say); the average is validated, kept and tested. auto:
    over about a tenth of all steps."""
    label_smoothing: float = 0.0
    """Share of each label that is spread over all classes."""
    class_weights: dict[str, float] = field(default_factory=dict)
    """Label -> factor for the loss of its rows, as in {positive: 2.0}; a label that is not named counts once."""
    wide_lr: FloatOrAuto = 20.0
    """Rate of the linear part (model.wide) at the first step; it falls to zero evenly. auto: by rows and steps."""
    wide_warmup: float = 0.0
    """Share of all steps during which that rate climbs first. Without it the first rows leave more in the linear part
    than others, the more so with many features for each row."""
    wide_ratio: float = 0.5
    """Power of a feature's log-count ratio, which says how much it tells of the label, in what the linear part weighs
    it before it learns; 0: rare features weigh most, whatever they tell."""
    wide_min_rows: int = 2
    """Training rows that must have a feature of the linear part, or it counts for nothing."""
    wide_smoothing: float | None = None
    """label_smoothing of the linear part, which with long n-grams knows the training rows by heart before it has
    learned what they have in common; null: that of the network."""
    adversarial: float | None = None
    """Learn also from every text moved in the direction that raises its loss most: how far, over all of its vectors
    together, in standard deviations of the embedding (1 to 5). null: no text is moved."""
    gradient_compression: Literal["none", "bf16"] = "none"
    """What gradients travel as between processes: bf16 halves them, for a slow network between machines."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for key in ("lr", "wide_lr"):
            rate = getattr(self, key)
            require(is_auto(rate) or 0 < rate < math.inf, f"optim.{key}", rate, "above 0, or auto")
        require(0 <= self.warmup <= 1, "optim.warmup", self.warmup, "a share of the steps, from 0 to 1")
        require(0 <= self.weight_decay < math.inf, "optim.weight_decay", self.weight_decay, "at least 0, and finite")
        require(all(0 <= beta < 1 for beta in self.betas), "optim.betas", self.betas, "two numbers from 0 to below 1")
        fits = self.clip_norm is None or 0 < self.clip_norm < math.inf
        require(fits, "optim.clip_norm", self.clip_norm, "above 0, or null")
        ema = self.ema
        require(ema is None or is_auto(ema) or 0 < ema < 1, "optim.ema", ema, "between 0 and 1, auto, or null")
        require(0 <= self.wide_warmup <= 1, "optim.wide_warmup", self.wide_warmup, "a share of the steps, from 0 to 1")
        require(0 <= self.wide_ratio <= MOST_POWER, "optim.wide_ratio", self.wide_ratio, f"from 0 to {MOST_POWER}")
        require(self.wide_min_rows >= 1, "optim.wide_min_rows", self.wide_min_rows, "a number of rows, at least 1")
        for key in ("label_smoothing", "wide_smoothing"):
            share = getattr(self, key)
            fits = share is None or 0 <= share < 1
            require(fits, f"optim.{key}", share, "at least 0 and below 1")
        radius = self.adversarial
        fits = radius is None or 0 < radius < math.inf
        require(fits, "optim.adversarial", radius, "a length above 0 such as 1 or 5, or null")
        for label, weight in self.class_weights.items():
            require(0 < weight < math.inf, f"optim.class_weights.{label}", weight, "above 0, and finite")

    def check_moves(self, embedding_dim: int) -> None:
        """Refuse to move texts so far that nothing is left of them: a word's vector of ``embedding_dim`` numbers is
        about as long as the square root of that.
        """
        radius, most = self.adversarial, FARTHEST * math.sqrt(embedding_dim)
        within = f"at most {most:.0f}, {FARTHEST} times the length of a vector with model.embedding_dim {embedding_dim}"
        require(radius is None or radius <= most, "optim.adversarial", radius, within)
