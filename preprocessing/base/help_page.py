# SPDX-License-Identifier: Apache-2.0
"""The pages of ``--help``: the first screen has the most important keys and an example.

``--help all``, ``--help model`` (a group) and ``--help optim.lr`` (a key) show more. The texts are the docstrings of
the fields. For an unknown name, ``suggestion`` gives the key that other tools call so, or the nearest name. Names of
other tools are not accepted as aliases, since they seldom mean the same: their ``--batch_size`` counts rows of one
process, ``--global_batch`` rows over all processes.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from preprocessing.base.configuration import Option, choices_of, groups_of, names, options_of
from preprocessing.base.errors import ConfigError
from preprocessing.base.terminal import wrapped

WIDEST = 100
"""Longer lines are hard to read, whatever the terminal's width."""
INDENT = 31
"""Column where the texts begin."""
ALL = "all"
"""The topic with all keys."""
LETTERS_A_SLIP = 5
"""A word of three letters may have one slip of the fingers, one of eight two, one of thirteen three."""


@dataclass(frozen=True)
class Page:
    """The first screen of a command."""

    usage: str
    first: tuple[str, ...] = ()
    """The most important keys; none: all."""
    example: str = ""
    """A complete command."""
    command_by_key: Callable[[], Mapping[str, str]] = dict
    """The keys of other commands, and the first command that has each."""


def render(page: Page, topic: str, config_class: type, values: Mapping[str, Any]) -> str:
    """The first screen, or the page of a ``topic``: all keys, a group or a key. Raises ``ConfigError`` for another.

    ``values`` replace defaults.
    """
    options, groups = options_of(config_class), groups_of(config_class)

    def described(title: str, keys: Iterable[str]) -> str:
        lines = [
            block(f"--{key} {_default(values.get(key, options[key].default))}", _text(options[key])) for key in keys
        ]
        return "\n".join([title, *lines] if title else lines)

    if topic := topic.removeprefix("--"):
        found = [key for key in options if topic in (ALL, key, *key.split("."))]
        if not found and topic != ALL:
            hint = suggestion(topic, [*groups, *options], dashes="--help ")
            raise ConfigError(f"--help {topic}: neither a key nor a group of keys{hint}")
        about = (groups[topic].__doc__ or "").partition("\n\n")[0] if topic in groups else ""
        return described(paragraph(f"{topic}: {about}") if about else "", found)
    output = getattr(config_class, "OUTPUT", "output")
    kind = getattr(config_class, "RECIPES", "")
    recipe = f", or a recipe: {', '.join(names(kind))}" if kind else ""
    more = {
        "-o PATH": f"the same as --{output}" if output in options else "",
        f"--help {ALL}": f"all {len(options)} keys; --help KEY: one",
        "--help GROUP": ", ".join(groups),
        "--config FILE": f"a YAML file with any of the keys{recipe}; keys beside it win",
        "--print_config": "print the resulting configuration",
    }
    blocks = [
        "\n".join(wrapped(f"usage: {page.usage}", width(), 7)),
        paragraph(config_class.__doc__ or ""),
        f"for example:\n  {page.example}" if page.example else "",
        described("the most important keys, with their defaults:", page.first or options) if options else "",
        "\n".join(["more:", *(block(name, what, 21) for name, what in more.items() if what)]),
    ]
    return "\n\n".join(filter(None, blocks))


def block(name: str, text: str, column: int = INDENT) -> str:
    """``name``, and ``text`` beside it, from ``column`` on."""
    return "\n".join(wrapped(text, width(), column, first=f"  {name} ".ljust(column)))


def plain(text: str) -> str:
    """A docstring in one line, without the markup of reStructuredText; code in single backticks gets single quotes."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"\1", text).replace("``", "").replace("`", "'")
    return " ".join(text.split())


def paragraph(text: str) -> str:
    """A docstring as wrapped paragraphs, without markup."""
    return "\n".join(line for part in text.split("\n\n") for line in wrapped(plain(part), width(), 0))


def width() -> int:
    """Characters per line: the terminal's, or 80."""
    return min(shutil.get_terminal_size((80, 24)).columns, WIDEST)


def _text(option: Option) -> str:
    """The text of a key, with its choices unless the text names them all."""
    text, words = plain(option.text), choices_of(option.kind)
    return text if all(word in text for word in words) else f"{text} ({', '.join(words)})"


def _default(value: Any) -> str:
    """A default as it is written in YAML."""
    if isinstance(value, str):
        return value or "''"
    return "…" if value is MISSING else json.dumps(value)


ELSEWHERE = {
    "global_batch": "batch_size per_device_train_batch_size train_batch_size batch",
    "batch": "batch_size per_device_eval_batch_size eval_batch_size",
    "micro_batch": "gradient_accumulation_steps accumulate_grad_batches",
    "optim.lr": "learning_rate learning_rate_init",
    "optim.decay": "lr_scheduler lr_scheduler_type scheduler",
    "optim.warmup": "warmup_ratio warmup_steps num_warmup_steps",
    "optim.weight_decay": "alpha l2",
    "optim.clip_norm": "max_grad_norm clipnorm gradient_clip_val gradient_clip grad_clip clip",
    "optim.class_weights": "class_weight sample_weight weights",
    "epochs": "num_epochs n_epochs num_train_epochs max_epochs max_steps max_iter n_iter steps step",
    "patience": "early_stopping early_stopping_patience n_iter_no_change early_stop",
    "validate_every": "eval_steps eval_strategy evaluation_strategy check_val_every_n_epoch",
    "select": "metric_for_best_model monitor metric",
    "checkpoint.every_steps": "save_steps save_strategy checkpoint_every eval_frequency",
    "checkpoint.keep_last": "save_total_limit save_top_k",
    "tracking.log_every": "logging_steps log_every_n_steps",
    "precision": "fp16 bf16 mixed_precision half amp",
    "num_processes": "gpus num_gpus gpu devices n_gpu nproc_per_node world_size",
    "world_size": "gpus num_gpus gpu devices n_gpu nproc_per_node num_processes",
    "device": "cpu cuda gpus num_gpus gpu devices n_gpu accelerator gpu_id no_cuda use_cpu",
    "tracking.tracker": "wandb report_to logger",
    "tracking.name": "run_name wandb_name",
    "threads": "num_threads n_jobs num_workers dataloader_num_workers thread",
    "processes": "workers jobs n_jobs num_workers",
    "executor.workers": "processes jobs n_jobs num_workers",
    "model.embedding_dim": "dim embedding_size embed_dim emb_dim embed_size vector_size embedding",
    "model.hidden_size": "hidden hidden_dim units hidden_units rnn_units lstm_units hidden_layer_sizes lstm_size",
    "model.num_layers": "layers n_layers num_hidden_layers rnn_layers lstm_layers",
    "model.wide": "bucket buckets",
    "model.wide_ngrams": "wordngrams word_ngrams ngram_range ngrams",
    "init.weights": "model_name_or_path pretrained ckpt_path checkpoint_path finetune",
    "init.vectors": "pretrainedvectors pretrained_vectors glove fasttext word2vec embeddings",
    "resume": "resume_from_checkpoint warm_start",
    "dry_run": "fast_dev_run",
    "run": "model model_path checkpoint model_dir logging_dir default_root_dir save_dir dir",
    "texts": "text sentence sentences",
    "input": "file files input_file data_file path test test_file filename csv",
    "column": "text_column text_col text_field",
    "source.path": "file files input input_file data data_file train train_file dataset filename csv",
    "source.validation_path": "dev validation_file valid val",
    "source.test_path": "test_file",
    "source.text_column": "text_col text column text_field text_columns text_column_name texts",
    "source.label_column": "label label_col label_column_name target target_column class_column class y",
    "source.delimiter": "sep separator delim field_separator",
    "source.columns": "names header",
    "source.quote": "quotechar quoting",
    "source.escape": "escapechar",
    "source.sheet": "sheet_name",
    "text.max_tokens": "max_length max_len max_seq_length maxlen sequence_length seq_len max_seq_len",
    "text.lowercase": "lower do_lower_case",
    "text.language": "lang",
    "vocabulary.min_count": "min_freq min_df mincount min_frequency",
    "vocabulary.max_size": "vocab_size num_words max_features max_vocab_size max_vocab max_words",
    "splits.validation": "validation_split validation_fraction validation_size val_size val_split dev_size valid_size",
    "splits.test": "test_size test_split test_fraction split",
    "splits.group_column": "group groups",
    "splits.folds": "n_splits n_folds cv kfold",
    "folds": "n_splits n_folds cv kfold",
    "quality.duplicates": "dedup deduplicate drop_duplicates",
    "onnx": "format",
    "limit": "nrows sample max_rows max_train_samples limit_train_batches",
    "seed": "random_state random_seed",
    "overwrite": "force overwrite_output_dir",
    "quiet": "silent",
}
"""Our key -> its names in scikit-learn, Keras, Hugging Face, fastText, spaCy and PyTorch Lightning. If several keys
have a name, the first that the command takes is suggested."""
REMARKS = {
    "global_batch": " (rows an optimizer step over all processes)",
    "micro_batch": " (most rows a process holds at once; the rest of global_batch is accumulated)",
    "num_processes": " (one process for each GPU)",
}
"""Our key -> how it differs from other tools."""
NO_KEY = {
    "num_labels num_classes n_classes classes": "the labels of the dataset are the classes",
    "stratify stratified": "splits always have the classes in equal shares; rows of a group: --splits.group_column",
    "shuffle": "rows are always shuffled, by --seed",
    "optimizer": "it is Adam; --help optim lists its keys",
    "loss criterion": "it is the cross-entropy of the classes",
    "strategy ddp": "several processes, --num_processes, share the rows of each step",
    "gru rnn lstm": "the recurrent layers are LSTMs; --help model lists their keys",
    "version": "padless --version prints it",
    "model": "a trained model is the directory of its run",
}
"""Names in other tools for what no key decides -> what decides it."""


def suggestion(name: str, keys: Collection[str], dashes: str, command_by_key: Mapping[str, str] | None = None) -> str:
    """The end of a sentence about an unknown name: ``; did you mean --optim.lr?``, ``; it is --global_batch here (…)``.

    One of ``keys`` is suggested, else one of other commands. The name may be misspelt, in our words or in others'.
    """
    ends: dict[str, str] = {}
    """The end for each name that is understood; the first stays."""
    for key in keys:
        ends.setdefault(last_part(key), f"did you mean {dashes}{key}?")
    for key in filter(keys.__contains__, ELSEWHERE):
        for word in ELSEWHERE[key].split():
            ends.setdefault(word, f"it is {dashes}{key} here{REMARKS.get(key, '')}")
    for words, end in NO_KEY.items():
        ends = dict.fromkeys(words.split(), end) | ends
    for key, command in (command_by_key or {}).items():
        for word in (last_part(key), *ELSEWHERE.get(key, "").split()):
            ends.setdefault(word, f"{dashes}{key} is a key of padless {command}")
    near = nearest(name.replace("-", "_").lower(), ends)
    return f"; {ends[near]}" if near else "; --help all lists them"


def beside(path: str | Path) -> str:
    """``; did you mean data/mine?``, with the nearest name in the folder of a path that does not exist, or nothing."""
    place, names = Path(path), dict[str, str]()
    for one in [] if place.exists() else place.parent.glob("*"):
        names |= {one.stem: one.name, without_dots(one.name): one.name}
    near = nearest(without_dots(place.name), names)
    return f"; did you mean {place.with_name(names[near])}?" if near else ""


def without_dots(name: str) -> str:
    """A file name as ``nearest`` compares it whole."""
    return name.lower().replace(".", "_")


def last_part(name: str) -> str:
    """``lr`` of ``optim.lr``."""
    return name.rpartition(".")[2]


def nearest(name: str, names: Collection[str]) -> str | None:
    """The name whose last part differs from that of ``name`` in the fewest letters, of those that a slip explains."""
    word = last_part(name)
    alike = [one for one in sorted(names) if word[:1] in last_part(one)[:2]]
    slips, near = min(((count_slips(word, last_part(one)), one) for one in alike), default=(1, None))
    return near if slips <= (len(word) + 2) // LETTERS_A_SLIP else None


@cache
def count_slips(left: str, right: str) -> int:
    """Damerau's distance of two words: letters to insert, leave out or replace, and neighbours to exchange."""
    if not (left and right):
        return len(left + right)
    if left[0] == right[0]:
        return count_slips(left[1:], right[1:])
    rest = [count_slips(left[1:], right), count_slips(left, right[1:]), count_slips(left[1:], right[1:])]
    if left[:2] == right[1::-1]:
        rest.append(count_slips(left[2:], right[2:]))
    return 1 + min(rest)
