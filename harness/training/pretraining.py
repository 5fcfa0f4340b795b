# SPDX-License-Identifier: Apache-2.0
"""A run whose network is a language model: another validation, and nothing to test when it is over."""

from __future__ import annotations

from dataclasses import dataclass

from harness.data.checks import VALIDATION
from harness.inference.scoring import measure
from harness.model.language_objective import LanguageObjective
from harness.training.run import Run


@dataclass
class PretrainingRun(Run):
    """Trains, measures perplexity and saves; the weights with the lowest log loss are kept."""

    def validate(self, epoch: int, step: int) -> bool:
        """Exact perplexity; the weights are kept if they are the best so far. Whether to stop here."""
        world = self.session.world
        with world.together("checking that the dataset is unchanged"):
            self.data.guard.check()
        objective = self.trainer.objective
        assert isinstance(objective, LanguageObjective)
        model = objective.classifier
        found = measure(
            model,
            self.data.splits[VALIDATION],
            world,
            batch_rows=self.config.eval_batch,
            layout=self.trainer.loader.layout,
            device=self.session.device,
            pause=self.pause,
            guard=self.data.guard.check_sizes,
            targets=objective.targets,
        )
        better = self.selection.agree(world, found.figures(), step)
        if better:
            with world.together("keeping the best weights"):
                self.writer.keep(model, self.manifest, self.selection)
        return self.conclude(found.figures(), epoch, step, better=better)

    def finish(self) -> None:
        """Say which weights were kept and what to do with them."""
        with self.session.world.together("saying how good the best weights are"):
            if self.console is not None:
                self.console.pretrained()
