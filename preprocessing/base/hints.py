# SPDX-License-Identifier: Apache-2.0
"""Hints that end the sentence on an unknown name: what other tools call a key of ours, or the nearest name there is.

A familiar name is not taken silently, since it seldom means quite the same: ``--batch_size`` counts rows of a process
elsewhere, ``--global_batch`` counts them over all processes.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection

LAUNCHER = "num_processes"
"""An option of ``accelerate launch``, which stands before the keys of a training."""
ELSEWHERE = {
    "global_batch": "batch_size per_device_train_batch_size train_batch_size",
    "eval_batch": "per_device_eval_batch_size eval_batch_size",
    "batch": "batch_size per_device_eval_batch_size eval_batch_size",
    "micro_batch": "gradient_accumulation_steps accumulate_grad_batches",
    "optim.lr": "learning_rate",
    "optim.decay": "lr_scheduler lr_scheduler_type",
    "optim.warmup": "warmup_ratio warmup_steps",
    "optim.clip_norm": "max_grad_norm grad_clip gradient_clip_val",
    "optim.label_smoothing": "label_smoothing_factor",
    "order.unlabelled_batch": "unlabeled_batch unlabeled_batch_size",
    "self_training.labels": "pseudo_labels soft_labels teacher",
    "epochs": "num_epochs num_train_epochs max_epochs epoch max_steps",
    "patience": "early_stopping_patience",
    "precision": "fp16 bf16 mixed_precision",
    LAUNCHER: "gpus num_gpus gpu devices n_gpu nproc_per_node world_size",
    "world_size": "gpus num_gpus gpu devices n_gpu nproc_per_node num_processes",
    "device": "cpu cuda gpus num_gpus gpu devices n_gpu",
    "tracking.tracker": "wandb report_to log_with logger",
    "tracking.project": "wandb_project",
    "tracking.name": "run_name",
    "tracking.group": "wandb_group",
    "tracking.log_every": "logging_steps",
    "checkpoint.every_steps": "save_steps",
    "checkpoint.keep_last": "save_total_limit",
    "resume": "resume_from_checkpoint",
    "executor.workers": "num_workers",
    "threads": "num_threads n_jobs num_workers",
    "source.path": "train_file input path file input_file",
    "data": "dataset data_dir dataset_name train_file",
    "input": "file input_file",
    "init.weights": "model_name_or_path pretrained init_checkpoint init_from load_weights",
    "run": "output_dir out model_dir checkpoint_dir model_name_or_path teacher",
    "output": "output_dir out",
    "model.embedding_dim": "emb_dim embed_dim",
    "model.hidden_size": "hidden_dim",
    "model.num_layers": "n_layers",
    "source.unlabelled_path": "unlabelled unlabeled unlabelled_path unlabeled_path unsupervised",
    "source.text_column": "text_column text_col column",
    "column": "text_column text_col",
    "source.label_column": "label_column label_col target",
    "label": "target class target_class",
    "rows": "limit max_rows n_rows nrows",
    "source.delimiter": "sep",
    "text.max_tokens": "max_length max_len max_seq_length",
    "vocabulary.max_size": "vocab_size max_vocab_size",
    "vocabulary.min_count": "min_freq",
    "text.stop_words": "stopwords",
    "splits.test": "test_size",
    "splits.validation": "val_size",
    "folds": "n_splits n_folds num_folds k_folds cv",
    "splits.folds": "n_splits n_folds num_folds k_folds cv",
    "seeds": "n_seeds num_seeds",
    "seed": "random_state random_seed",
    "overwrite": "force",
}
"""A key here -> names for it elsewhere; of several keys for a name the first that a command has is meant."""
VALUES = {"wandb", "fp16", "bf16", "cpu", "cuda"}
"""Names elsewhere that are a value here."""
REMARKS = {
    "seeds": "the seeds themselves, as in 0,1,2",
    "folds": "all, or the number of folds that the dataset has",
    "global_batch": "rows an optimizer step over all processes",
    "micro_batch": "most rows a process holds at once; the rest of global_batch is accumulated",
    LAUNCHER: "an option of accelerate launch: one process a GPU, before the keys of the training",
    "optim.warmup": "a share of all steps",
    "epochs": "how often every training row is seen",
}
"""What differs from elsewhere."""


def suggestion(name: str, known: Collection[str], dashes: str = "--") -> str:
    """How a sentence on an unknown key ends: ``; it is --global_batch here (…)`` or ``; did you mean --optim.lr?``."""
    if here := translated(name, known):
        value = f" {name}" if name in VALUES else ""
        remark = f" ({REMARKS[here]})" if here in REMARKS else ""
        return f"; it is {dashes}{here}{value} here{remark}"
    near = nearest(name, known)
    return f"; did you mean {dashes}{near}?" if near else "; --help all lists them"


def translated(name: str, known: Collection[str]) -> str | None:
    """What is called ``name`` elsewhere; None also where only the group before the dot is wrong."""
    group, _, last = name.rpartition(".")
    plain = last.replace("-", "_").lower()
    key = next((key for key, names in ELSEWHERE.items() if key in known and plain in names.split()), None)
    return None if key == name or (group and key is not None and key.rpartition(".")[2] == last) else key


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that is most like this one, by the whole of it or by its last part."""
    last = {choice.rpartition(".")[2]: choice for choice in sorted(known)}
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return (
        near[0]
        if near
        else next((last[one] for one in difflib.get_close_matches(name.rpartition(".")[2], list(last), n=1)), None)
    )
