# SPDX-License-Identifier: Apache-2.0
"""The ``vocabulary`` section of a configuration."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from preprocessing.base.errors import ConfigError, require
from preprocessing.text.vocabulary import check_bounds, min_count_for


@dataclass(frozen=True, kw_only=True)
class VocabularyConfig:
    """Which tokens of the training split get an id of their own."""

    min_count: int | Literal["auto"] = "auto"
    """A token that occurs less often in the training split is read as <unk>. auto: 2; of a tiny corpus 1, of a huge one
    5."""
    max_size: int = 65536
    """Largest number of ids, <pad> and <unk> included; up to 65536 they take two bytes each."""
    count_unlabelled: bool = True
    """Whether tokens of texts without labels count as if they stood in the training split."""
    base: str | None = None
    """Run, bundle or dataset whose vocabulary this one is, token by token and id by id, so that its weights can read
    the new texts; the settings under text must be those of the base. null: none."""
    extend: bool = False
    """Whether frequent tokens that base lacks get ids behind its own, up to max_size; its weights fit then no more, but
    init.weights finds their rows."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot hold a token, and what a base makes useless."""
        check_bounds(self.min_count, self.max_size)
        require(self.base != "", "vocabulary.base", self.base, "the directory of a run, bundle or dataset, or null")
        if self.extend and self.base is None:
            raise ConfigError("vocabulary.extend: there is nothing to extend; name vocabulary.base")
        if self.base is not None and not self.extend and self.min_count != "auto":
            raise ConfigError(
                "vocabulary.min_count: no token is added to those of vocabulary.base; set vocabulary.extend to true, "
                "or this to auto"
            )

    def of(self, tokens: int) -> VocabularyConfig:
        """The same with a number as ``min_count``, for so many training tokens."""
        counts = self.min_count == "auto" and (self.base is None or self.extend)
        return replace(self, min_count=min_count_for(tokens)) if counts else self

    def recorded(self) -> dict[str, Any]:
        """As a manifest holds it: without a base and unlabelled texts as it was before there could be any."""
        content = asdict(self)
        if self.count_unlabelled:
            del content["count_unlabelled"]
        if self.base is None:
            del content["base"], content["extend"]
        return content
