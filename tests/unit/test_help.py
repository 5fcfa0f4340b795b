# SPDX-License-Identifier: Apache-2.0
"""What ``--help`` shows: one screen first, the rest by group, no marks; and what familiar names are called here."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from harness import evaluate, train
from harness.__main__ import COMMANDS as HARNESS
from harness.__main__ import ELSEWHERE as HARNESS_ELSEWHERE
from harness.__main__ import main as harness
from harness.config import Recipe
from harness.inference.config import EvaluateConfig, ExplainConfig, PredictConfig
from harness.launch import launcher
from harness.launch.asked import LaunchRecipe
from harness.launch.plan import PlanConfig
from preprocessing.__main__ import COMMANDS as PREPROCESSING
from preprocessing.__main__ import ELSEWHERE as PREPROCESSING_ELSEWHERE
from preprocessing.__main__ import main as preprocessing
from preprocessing.base import cli, familiar, help_page
from preprocessing.base.errors import ConfigError
from preprocessing.config import PreprocessConfig

pytestmark = pytest.mark.thorough

SCREEN = (24, 80)
"""Lines and columns of a terminal."""
BIG = [
    (harness, ["launch"], Recipe),
    (harness, ["plan"], Recipe),
    (harness, ["doctor"], Recipe),
    (train.main, [], Recipe),
    (preprocessing, ["run"], PreprocessConfig),
]
COMMANDS: list[tuple[Callable[[list[str]], int], list[str]]] = [
    *((harness, [one.name, part.name]) for one in HARNESS for part in one.parts),
    *((harness, [one.name]) for one in HARNESS if not one.parts),
    *((preprocessing, [one.name]) for one in PREPROCESSING),
    (train.main, []),
    (evaluate.main, []),
]
LISTS: list[tuple[Callable[[list[str]], int], list[str]]] = [
    *((harness, [one.name]) for one in HARNESS if one.parts),
    (harness, []),
    (preprocessing, []),
]


def shown(capsys: pytest.CaptureFixture[str], main: Callable[[list[str]], int], *words: str) -> list[str]:
    """The lines that a request for help prints; it ends with exit code 0."""
    try:
        code: int | str | None = main(list(words))
    except SystemExit as left:
        code = left.code
    assert code in (0, None)
    return capsys.readouterr().out.splitlines()


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(SCREEN[1]))


@pytest.mark.parametrize(("main", "words", "config"), BIG)
def test_the_first_screen_has_five_keys_and_an_example(capsys, main, words: list[str], config: type) -> None:
    lines = shown(capsys, main, *words, "--help")
    title = next(place for place, line in enumerate(lines) if line.startswith("the keys that matter most"))
    keys = [line for line in lines[title : lines.index("more:")] if line.startswith("  --")]
    assert len(keys) == 5
    assert len(lines) <= SCREEN[0]
    example = lines[lines.index("for example:") + 1].split()
    options = {word[2:] for word in example if word.startswith("--")} - {"num_processes"}
    known = cli.known_keys(cli.parser_for(config)) | cli.known_keys(cli.parser_for(PlanConfig))
    assert options
    assert options <= known


@pytest.mark.parametrize(
    ("main", "words", "more"), [*((*one, ["all"]) for one in COMMANDS), *((*one, []) for one in LISTS)]
)
def test_help_is_narrow_and_has_no_marks(capsys, main, words: list[str], more: list[str]) -> None:
    for topic in ([], more):
        lines = shown(capsys, main, *words, "--help", *topic)
        assert lines
        assert [line for line in lines if len(line) > SCREEN[1]] == []
        assert [line for line in lines if "`" in line or re.search(r":\w+:'", line)] == []


def test_every_key_is_shown_on_request(capsys) -> None:
    lines = shown(capsys, harness, "launch", "--help", "all")
    leaves = {entry.key for entry in help_page.entries_of([cli.parser_for(LaunchRecipe)])}
    assert {match[1] for line in lines if (match := re.match(r"  --([a-z_.]+)", line))} == leaves
    assert {"data", "model.pooling", "optim.lr", "tracking.tracker"} <= leaves


def test_a_group_and_a_key_are_shown_on_request(capsys) -> None:
    group = shown(capsys, harness, "launch", "--help", "order")
    assert " ".join(group).startswith(
        "order: Which rows meet in a batch; with the dataset, seed and global batch this "
    )
    keys = [line.split()[0] for line in group if line.startswith("  --")]
    assert keys == ["--order.window_rows", "--order.length_noise", "--order.unlabelled_batch"]
    lr = [
        "  --optim.lr auto              Highest learning rate. auto: by the rows of a",
        f"{' ' * 31}step and the classes.",
    ]
    for words in (["--help", "lr"], ["--help=optim.lr"], ["-h", "optim.lr"], ["--epochs", "2", "--help", "lr"]):
        assert shown(capsys, harness, "launch", *words) == lr
    assert shown(capsys, preprocessing, "run", "--help", "min_count")[0].startswith("  --vocabulary.min_count auto ")
    world_size = "  --world_size 1               Processes that will train."
    assert shown(capsys, harness, "plan", "--help", "world_size") == [world_size]


@pytest.mark.parametrize(
    ("topic", "sentence"),
    [
        ("modle", "--help modle: neither a key nor a group of keys; did you mean --help model?"),
        ("poling", "--help poling: neither a key nor a group of keys; did you mean --help model.pooling?"),
        (
            "xyz",
            "--help xyz: neither a key nor a group of keys; there are all, general, checkpoint, model, init, optim, ",
        ),
    ],
)
def test_an_unknown_topic_names_the_nearest(topic: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        harness(["launch", "--help", topic])
    assert str(caught.value).startswith(sentence)


def test_a_choice_is_spelt_out_where_the_text_does_not(capsys) -> None:
    decay = " ".join(" ".join(shown(capsys, harness, "launch", "--help", "optim.decay")).split())
    assert decay.endswith("the last step. (none, linear or cosine)")
    assert "(auto" not in " ".join(shown(capsys, preprocessing, "run", "--help", "tokenizer"))


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("``a`` and `b`", "a and 'b'"),
        (":class:`Encoder` or :func:`~x.split`", "Encoder or x.split"),
        ("a <  b\n  survives", "a < b survives"),
    ],
)
def test_marks_are_taken_off(text: str, plain: str) -> None:
    assert help_page.plain(text) == plain


FAMILIAR = {
    "batch_size": "it is --global_batch here (rows an optimizer step over all processes)",
    "learning_rate": "it is --optim.lr here",
    "learning-rate": "it is --optim.lr here",
    "gradient_accumulation_steps": "it is --micro_batch here (most rows a process holds at once; the rest of "
    "global_batch is accumulated)",
    "num_epochs": "it is --epochs here (how often every training row is seen)",
    "num_train_epochs": "it is --epochs here (how often every training row is seen)",
    "wandb": "it is --tracking.tracker wandb here",
    "report_to": "it is --tracking.tracker here",
    "gpus": "it is --num_processes here (an option of accelerate launch: one process a GPU, before the keys of the "
    "training)",
    "optim.learning_rate": "it is --optim.lr here",
}


@pytest.mark.parametrize("name", FAMILIAR)
def test_a_familiar_flag_is_answered_with_the_key(name: str) -> None:
    """Wherever it stands: in front, where accelerate's options stand, and among the keys of the training."""
    with pytest.raises(ConfigError) as caught:
        harness(["launch", "--epochs", "2", f"--{name}", "3"])
    assert str(caught.value) == f"--{name}: no such option; {FAMILIAR[name]}"


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--batch_size", f"no key of the training, no option of accelerate launch; {FAMILIAR['batch_size']}"),
        ("--gpus=2", f"no key of the training, no option of accelerate launch; {FAMILIAR['gpus']}"),
        ("--num_proceses", "no key of the training, no option of accelerate launch; did you mean --num_processes?"),
        ("--gradient_accumulation_steps", f"padless has no use for it; {FAMILIAR['gradient_accumulation_steps']}"),
    ],
)
def test_an_option_in_front_is_answered_too(option: str, sentence: str) -> None:
    known = {"--num_processes", "--gradient_accumulation_steps", "--cpu"}
    with pytest.raises(ConfigError) as caught:
        launcher.check_options(["--num_processes", "2", option, "3"], known)
    assert str(caught.value) == f"{option.partition('=')[0]}: {sentence}"


def test_an_option_of_the_launcher_belongs_in_front() -> None:
    with pytest.raises(ConfigError) as caught:
        harness(["launch", "--epochs", "2", "--num_processes", "2"])
    assert str(caught.value) == (
        "--num_processes: an option of accelerate launch: put it before the keys of the training"
    )


def test_a_familiar_name_in_a_file(tmp_path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("batch_size: 32\n")
    with pytest.raises(ConfigError) as caught:
        harness(["plan", "--config", str(file)])
    expected = FAMILIAR["batch_size"].replace("--", "")
    assert str(caught.value) == f"{file}: unknown key 'batch_size'; {expected}"


def test_familiar_names_mean_keys_that_exist() -> None:
    configs = (LaunchRecipe, PreprocessConfig, EvaluateConfig, PredictConfig, ExplainConfig, PlanConfig)
    known = set().union(*(cli.known_keys(cli.parser_for(one)) for one in configs)) | {familiar.LAUNCHER}
    used = {key for keys in familiar.KEYS.values() for key in keys}
    assert used - known == set()
    assert set(familiar.REMARKS) - used == set()
    assert set(familiar.VALUES) - set(familiar.KEYS) == set()
    own = cli.known_keys(cli.parser_for(Recipe))
    assert [name for name in familiar.KEYS if name in own] == []  # a key of ours needs no translation


def test_what_is_meant_by_other_words_exists() -> None:
    names = {"harness": {one.name for one in HARNESS}, "preprocessing": {one.name for one in PREPROCESSING}}
    for package, table in (("harness", HARNESS_ELSEWHERE), ("preprocessing", PREPROCESSING_ELSEWHERE)):
        for meant in table.values():
            words = meant.split()
            if words[0] == "python":
                package_meant, name = words[2], words[3]
            elif words[0] == "accelerate":
                continue
            else:
                package_meant, name = package, words[0]
            assert name in names[package_meant], meant
