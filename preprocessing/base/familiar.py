# SPDX-License-Identifier: Apache-2.0
"""What other tools call an option, and what it is called here: for the sentence that refuses the familiar name.

A familiar name is not taken silently, since it seldom means quite the same: ``--batch_size`` counts rows a process
elsewhere, ``--global_batch`` counts them over all processes.
"""

from __future__ import annotations

from collections.abc import Collection

LAUNCHER = "num_processes"
"""An option of ``accelerate launch``, which stands before the keys of a training."""
KEYS: dict[str, tuple[str, ...]] = {
    "batch_size": ("global_batch", "batch"),
    "per_device_train_batch_size": ("global_batch",),
    "train_batch_size": ("global_batch",),
    "per_device_eval_batch_size": ("eval_batch", "batch"),
    "eval_batch_size": ("eval_batch", "batch"),
    "learning_rate": ("optim.lr",),
    "lr_scheduler": ("optim.decay",),
    "lr_scheduler_type": ("optim.decay",),
    "warmup_ratio": ("optim.warmup",),
    "warmup_steps": ("optim.warmup",),
    "max_grad_norm": ("optim.clip_norm",),
    "grad_clip": ("optim.clip_norm",),
    "gradient_clip_val": ("optim.clip_norm",),
    "label_smoothing_factor": ("optim.label_smoothing",),
    "unlabeled_batch": ("order.unlabelled_batch",),
    "unlabeled_batch_size": ("order.unlabelled_batch",),
    "pseudo_labels": ("self_training.labels",),
    "soft_labels": ("self_training.labels",),
    "teacher": ("self_training.labels", "run"),
    "gradient_accumulation_steps": ("micro_batch",),
    "accumulate_grad_batches": ("micro_batch",),
    "num_epochs": ("epochs",),
    "num_train_epochs": ("epochs",),
    "max_epochs": ("epochs",),
    "epoch": ("epochs",),
    "early_stopping_patience": ("patience",),
    "max_steps": ("epochs",),
    "fp16": ("precision",),
    "bf16": ("precision",),
    "mixed_precision": ("precision",),
    "cpu": ("device",),
    "cuda": ("device",),
    "gpus": (LAUNCHER, "world_size", "device"),
    "num_gpus": (LAUNCHER, "world_size", "device"),
    "gpu": (LAUNCHER, "world_size", "device"),
    "devices": (LAUNCHER, "world_size", "device"),
    "n_gpu": (LAUNCHER, "world_size", "device"),
    "nproc_per_node": (LAUNCHER, "world_size"),
    "world_size": (LAUNCHER,),
    "num_processes": ("world_size",),
    "wandb": ("tracking.tracker",),
    "report_to": ("tracking.tracker",),
    "log_with": ("tracking.tracker",),
    "logger": ("tracking.tracker",),
    "wandb_project": ("tracking.project",),
    "run_name": ("tracking.name",),
    "logging_steps": ("tracking.log_every",),
    "save_steps": ("checkpoint.every_steps",),
    "save_total_limit": ("checkpoint.keep_last",),
    "resume_from_checkpoint": ("resume",),
    "num_threads": ("threads",),
    "n_jobs": ("threads", "executor.workers"),
    "num_workers": ("executor.workers", "threads"),
    "dataset": ("data",),
    "data_dir": ("data",),
    "dataset_name": ("data",),
    "train_file": ("source.path", "data"),
    "output_dir": ("run", "output"),
    "out": ("output", "run"),
    "model_dir": ("run",),
    "checkpoint_dir": ("run",),
    "model_name_or_path": ("init.weights", "run"),
    "pretrained": ("init.weights",),
    "init_checkpoint": ("init.weights",),
    "init_from": ("init.weights",),
    "load_weights": ("init.weights",),
    "emb_dim": ("model.embedding_dim",),
    "embed_dim": ("model.embedding_dim",),
    "hidden_dim": ("model.hidden_size",),
    "n_layers": ("model.num_layers",),
    "input": ("source.path",),
    "path": ("source.path",),
    "file": ("source.path", "input"),
    "input_file": ("source.path", "input"),
    "unlabelled": ("source.unlabelled_path",),
    "unlabeled": ("source.unlabelled_path",),
    "unlabelled_path": ("source.unlabelled_path",),
    "unlabeled_path": ("source.unlabelled_path",),
    "unsupervised": ("source.unlabelled_path",),
    "text_column": ("source.text_column", "column"),
    "text_col": ("source.text_column", "column"),
    "column": ("source.text_column",),
    "label_column": ("source.label_column",),
    "label_col": ("source.label_column",),
    "target": ("source.label_column", "label"),
    **dict.fromkeys(("class", "target_class"), ("label",)),
    **dict.fromkeys(("limit", "max_rows", "n_rows", "nrows"), ("rows",)),
    "sep": ("source.delimiter",),
    "max_length": ("text.max_tokens",),
    "max_len": ("text.max_tokens",),
    "max_seq_length": ("text.max_tokens",),
    "vocab_size": ("vocabulary.max_size",),
    "max_vocab_size": ("vocabulary.max_size",),
    "min_freq": ("vocabulary.min_count",),
    "stopwords": ("text.stop_words",),
    "test_size": ("splits.test",),
    "val_size": ("splits.validation",),
    "n_splits": ("folds", "splits.folds"),
    "n_folds": ("folds", "splits.folds"),
    "num_folds": ("folds", "splits.folds"),
    "k_folds": ("folds", "splits.folds"),
    "cv": ("folds", "splits.folds"),
    "n_seeds": ("seeds",),
    "num_seeds": ("seeds",),
    "wandb_group": ("tracking.group",),
    "random_state": ("seed",),
    "random_seed": ("seed",),
    "force": ("overwrite",),
}
"""A name elsewhere -> names here, of which the first that a command has is meant."""
VALUES = {"wandb": "wandb", "fp16": "fp16", "bf16": "bf16", "cpu": "cpu", "cuda": "cuda"}
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
"""What differs from elsewhere, for those names that are not taken at their word."""


def meaning(name: str, known: Collection[str], dashes: str = "--") -> str | None:
    """``it is --global_batch here (…)`` for a familiar ``name`` of which ``known`` has a counterpart, else None; nor
    for the counterpart itself with a slip in the group before the dot.
    """
    group, _, last = name.rpartition(".")
    plain = last.replace("-", "_").lower()
    key = next((key for key in KEYS.get(plain, ()) if key in known and key != name), None)
    if key is None or (group and key.rpartition(".")[2] == last):
        return None
    value = f" {VALUES[plain]}" if plain in VALUES else ""
    remark = f" ({REMARKS[key]})" if key in REMARKS else ""
    return f"it is {dashes}{key}{value} here{remark}"
