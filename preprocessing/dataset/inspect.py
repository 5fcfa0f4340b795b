# SPDX-License-Identifier: Apache-2.0
"""What is in a dataset and how good it is: as a table for people, as JSON for programs, as a picture for a report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from preprocessing.base import atomic
from preprocessing.base.atomic import storing
from preprocessing.base.errors import ConfigError, DataError, require
from preprocessing.base.split_names import NO_LABEL, TRAIN, UNLABELLED
from preprocessing.base.terminal import plain_line, printable
from preprocessing.dataset import remote
from preprocessing.dataset.shards import REBUILD, VOCABULARY, Manifest, Split, read_manifest
from preprocessing.dataset.statistics import folds_in_words, groups_in_words, unlabelled_in_words
from preprocessing.text.vocabulary import UNK, Vocabulary

if TYPE_CHECKING:
    import pandas as pd

FREQUENT = 25
SAMPLE_CHARACTERS = 240
COUNTED = {"rows_read", "rows_kept", "dropped", "duplicates", "contradictions"}
"""What a manifest's statistics hold of the whole corpus, unless it was made otherwise than by a job."""
PERCENTILES = (5, 25, 50, 75, 95, 99)


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Label balance, lengths, truncation, unknown tokens, padding, duplicates, sample rows."""

    json: bool = False
    """Print one JSON object instead of tables."""
    plot: str | None = None
    """FILE.png to draw to: lengths, ladder, balance, unknown rate and padding."""
    samples: int = 2
    """Rows of each split to read back."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.samples >= 0, "samples", self.samples, "at least 0")


def main(config: InspectConfig, words: list[str]) -> None:
    """Show what is in a dataset."""
    (address,) = words
    found = inspect(remote.local(address), config.samples)
    print(json.dumps(found, indent=2, ensure_ascii=False) if config.json else render(found))
    if config.plot is not None:
        plot(found, config.plot)


def inspect(root: str | Path, samples: int = 2) -> dict[str, Any]:
    """Everything that is shown, as JSON. Raises ``DataError`` where there is no readable dataset."""
    manifest = read_manifest(root)
    vocabulary = Vocabulary.read(Path(root, VOCABULARY))
    splits = {name: Split(root, manifest, name).check() for name in manifest.splits}
    total = max(int(vocabulary.counts.sum()), 1)
    tokens = zip(
        vocabulary.tokens[2 : 2 + FREQUENT].to_pylist(), vocabulary.counts[2 : 2 + FREQUENT].tolist(), strict=True
    )
    return {
        "dataset": str(root),
        "fingerprint": manifest.fingerprint,
        "labels": manifest.labels,
        "widths": sorted({info.width for infos in manifest.splits.values() for info in infos}),
        "vocabulary_size": manifest.vocabulary_size,
        "id_dtype": manifest.id_dtype,
        "text": manifest.text,
        "corpus": {key: value for key, value in manifest.statistics.items() if key != "splits"},
        "splits": {name: describe(split, manifest) for name, split in splits.items()},
        "frequent_tokens": [
            {"token": token, "count": count, "share": round(count / total, 6)} for token, count in tokens
        ],
        "samples": {name: sampled(split, manifest, vocabulary, samples) for name, split in splits.items()},
    }


def frame(split: Split, manifest: Manifest) -> pd.DataFrame:
    """One line per row of a split: row, label (none in the split ``unlabelled``), length, width, unknown."""
    import pandas as pd

    pieces = []
    for shard in split.shards:
        for block in shard.blocks:
            columns = {"row": block.row, "label": block.label, "length": block.length, "width": shard.info.width}
            pieces.append(pd.DataFrame({**columns, "unknown": (block.ids == UNK).sum(axis=1)}))
    rows = pd.concat(pieces, ignore_index=True)
    rows["label"] = pd.Categorical.from_codes(rows["label"].tolist(), categories=pd.Index(manifest.labels))
    return rows


def describe(split: Split, manifest: Manifest) -> dict[str, Any]:
    """Label balance, lengths, truncation, unknown tokens and padding of one split."""
    rows = frame(split, manifest)
    lengths, tokens = rows["length"], int(rows["length"].sum())
    result: dict[str, Any] = {
        "rows": len(rows),
        "labels": {} if split.name == UNLABELLED else counted(rows["label"].cat.rename_categories(str)),
        "tokens": tokens,
        "length_mean": round(float(lengths.mean()), 2),
        "length_percentiles": {str(p): int(np.percentile(lengths, p, method="inverted_cdf")) for p in PERCENTILES},
        "rows_per_width": counted(rows["width"]),
        "padding_on_disk": round(1 - tokens / float(rows["width"].sum()), 6),
        "unknown_rate": round(float(rows["unknown"].sum()) / tokens, 6),
    }
    known = manifest.statistics.get("splits", {}).get(split.name, {})
    for name in ("truncated", "empty"):
        if name in known:
            result |= {name: known[name], f"{name}_rate": round(known[name] / len(rows), 6)}
    return result | {name: known[name] for name in ("length_histogram",) if name in known}


def counted(column: pd.Series[Any]) -> dict[str, int]:
    """Value of a column, in their order -> how many rows have it."""
    return {str(value): int(count) for value, count in column.value_counts(sort=False).sort_index().items()}


def sampled(split: Split, manifest: Manifest, vocabulary: Vocabulary, number: int) -> list[dict[str, Any]]:
    """Some rows, read back into words: the same ones each time, from all over the split."""
    result = []
    for place in (len(split) * (2 * at + 1) // (2 * number) for at in range(min(number, len(split)))):
        at = int(np.searchsorted(split.block_starts, place, side="right")) - 1
        block, index = split.blocks[at], place - int(split.block_starts[at])
        label, length = int(block.label[index]), int(block.length[index])
        text = " ".join(vocabulary.tokens.take(block.ids[index, :length].astype(np.int64)).to_pylist())
        result.append(
            {
                "row": int(block.row[index]),
                "label": None if label == NO_LABEL else manifest.labels[label],
                "length": length,
                "text": text if len(text) <= SAMPLE_CHARACTERS else text[:SAMPLE_CHARACTERS] + " …",
            }
        )
    return result


def render(found: dict[str, Any]) -> str:
    """The report for people."""
    import pandas as pd

    labels = found["labels"]
    table = {}
    for name, split in found["splits"].items():
        column = {"rows": f"{split['rows']:,}"}
        shares = {label: split["labels"][label] / split["rows"] for label in labels if split["labels"]}
        column |= {plain_line(label): f"{shares[label]:.1%}" if shares else "-" for label in labels}
        column |= {f"length, {p} %": f"{value:,}" for p, value in split["length_percentiles"].items()}
        column |= {f"width {width}": f"{rows:,}" for width, rows in split["rows_per_width"].items()}
        column["padding on disk"] = f"{split['padding_on_disk']:.1%}"
        column["unknown tokens"] = f"{split['unknown_rate']:.2%}"
        column |= {name: f"{split[f'{name}_rate']:.2%}" for name in ("truncated", "empty") if name in split}
        table[name] = column
    lines = [f"{found['dataset']}: vocabulary {found['vocabulary_size']:,} ({found['id_dtype']})", ""]
    lines += [pd.DataFrame(table).fillna("0").to_string(), ""]
    try:
        lines += of_corpus(found)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise DataError(f"{found['dataset']}: its statistics are not those of this version; {REBUILD}") from None
    lines += ["most frequent tokens: " + " ".join(plain_line(one["token"]) for one in found["frequent_tokens"]), ""]
    for name, rows in found["samples"].items():
        for row in rows:
            label = "no label" if row["label"] is None else plain_line(row["label"])
            lines.append(f"{name} row {row['row']} ({label}, {row['length']} tokens): {row['text']}")
    return printable("\n".join(lines))


def of_corpus(found: dict[str, Any]) -> list[str]:
    """What the statistics of a job say, in words."""
    corpus, lines = found["corpus"], list[str]()
    if corpus.keys() >= COUNTED:
        dropped = ", ".join(f"{name} {count:,}" for name, count in corpus["dropped"].items() if count) or "none"
        repeated = corpus["duplicates"]
        lines = [
            f"rows read {corpus['rows_read']:,}, kept {corpus['rows_kept']:,}; left out: {dropped}",
            f"duplicates: {repeated['exact']:,} exact, {repeated['normalised']:,} after the text pipeline, "
            f"{repeated['across_splits']:,} rows across splits; contradictory labels: {corpus['contradictions']:,}",
            "",
        ]
    if UNLABELLED in corpus:
        kept = found["splits"].get(UNLABELLED, {"rows": 0})["rows"]
        lines += [f"unlabelled: {unlabelled_in_words(corpus[UNLABELLED], kept)}", ""]
    lines += [f"splits {line}" for line in groups_in_words(corpus["groups"])] + [""] if "groups" in corpus else []
    return lines + ([f"folds: {folds_in_words(corpus['folds'])}", ""] if "folds" in corpus else [])


def plot(found: dict[str, Any], path: str) -> None:
    """Draw lengths with the ladder, label balance, unknown rate and padding. ``ConfigError`` for a bad ``path``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 3)
    splits = found["splits"]
    lengths = figure.add_subplot(grid[0, :])
    for name, split in splits.items():
        if histogram := split.get("length_histogram"):  # before truncation
            share = np.array(histogram["rows"]) / max(split["rows"], 1)
            lengths.stairs(share, histogram["edges"], label=name, fill=name == TRAIN, alpha=0.5 if name == TRAIN else 1)
    for width in found["widths"]:
        lengths.axvline(width, color="black", linestyle=":", linewidth=1)
        lengths.annotate(str(width), (width, 1), xycoords=("data", "axes fraction"), fontsize="small")
    lengths.set_title("Length before truncation, and the ladder of widths", pad=16)
    lengths.set(xlabel="tokens", ylabel="share of rows")
    balance = figure.add_subplot(grid[1, 0])
    labelled = {name: split for name, split in splits.items() if split["labels"]}
    bottom = np.zeros(len(labelled))
    for label in found["labels"]:
        share = np.array([split["labels"][label] / split["rows"] for split in labelled.values()])
        balance.bar(list(labelled), share, bottom=bottom, label=label)
        bottom += share
    balance.set_title("Label balance")
    balance.legend(fontsize="small", loc="lower center")
    if lengths.get_legend_handles_labels()[0]:
        lengths.legend()
    titles = {"unknown_rate": "Unknown tokens, %", "padding_on_disk": "Padding on disk, %"}
    for place, (key, title) in enumerate(titles.items(), 1):
        axes = figure.add_subplot(grid[1, place])
        axes.bar_label(axes.bar(list(splits), [100 * split[key] for split in splits.values()]), fmt="%.2f")
        axes.set_title(title)
    try:
        with storing(path, otherwise="name another file with `inspect --plot`"), atomic.replacing(path) as temporary:
            figure.savefig(temporary, dpi=120, format=Path(path).suffix[1:] or "png")
    except ValueError as error:
        raise ConfigError(f"inspect --plot: {path}: {error}") from None
