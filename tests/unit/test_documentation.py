# SPDX-License-Identifier: Apache-2.0
"""Documents agree with the code: files, names, packages, layers, laws, commands and their options; so do the pages
that the site's hooks make.
"""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Iterator

import pytest

from benchmarks.__main__ import COMMANDS as BENCHMARKS
from docs.hooks import reference
from padless.commands import COMMANDS
from padless.core.configuration import groups_of, options_of
from padless.core.errors import ConfigError, DataError, StorageError, UserError
from padless.core.installed import load_object
from padless.core.signals import PREEMPTED
from tests.helpers.commands import ROOT

pytestmark = pytest.mark.thorough

FILES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "launch/sweep.yaml")]
FILES += [ROOT / "launch/slurm/README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "configs").rglob("*.yaml")]
DOCUMENTS = sorted(str(path.relative_to(ROOT)) for path in FILES)
FOLDERS = ("benchmarks/", "configs/", "docs/", "harness/", "launch/", "padless/", "preprocessing/", "tests/")
PATH = re.compile(rf"(?<![\w/.-])((?:{'|'.join(FOLDERS)})[\w./-]*)(?::(\w+))?")
LINK = re.compile(r"\]\(([^)#]+)\)")
COMMAND = re.compile(r"(?:python -m |`)(benchmarks|padless)((?: +[!-_a-{}~]+)*)")
"""A command with its words, up to the end of the line or the first sign that is no word of a command."""
SPAN = re.compile(r"`(--)?([a-z_]+(?:\.[a-z_]+)*)\b(?!\()[^`\n]*`")
"""What may be a key: a span of code that begins with dashes or a name."""
CLASS_BY_COMMAND = {
    (program, command.name): load_object(command.config)
    for program, table in (("padless", COMMANDS), ("benchmarks", BENCHMARKS))
    for command in table
}
COMMON_KEYS = ("completion", "config", "help", "print_config", "version")
FILE_ENDINGS = (".arrow", ".onnx")
OF_OTHERS = {"cpus", "dependency", "hypothesis", "parsable", "signal"}
"""Options of sbatch and pytest that pages name."""
FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SCRIPT = re.compile(r"^[!$]? ?(padless) (.+)$", re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_exists(document: str) -> None:
    text = (ROOT / document).read_text()
    for written_path, name in PATH.findall(text):
        path = ROOT / written_path.rstrip(".")
        if "NAME" not in written_path:  # which is anyone's
            assert path.exists(), written_path
        if name:
            assert re.search(rf"^(?:def |class )?{name}\b", path.read_text(), re.MULTILINE), f"{written_path}: {name}"
    links = [link for link in LINK.findall(text) if "://" not in link]
    assert all((ROOT / document).parent.joinpath(link).exists() for link in links), links


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """``padless`` or ``benchmarks``, and the words after it, of every command of a document."""
    text = text.replace("\\\n", " ")
    for name, arguments in [*COMMAND.findall(text), *SCRIPT.findall("".join(FENCE.findall(text)))]:
        words = shlex.split(arguments, comments=True)
        if words and words[0] not in ("--version", "--help", "--completion"):
            yield name, words


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_takes_its_options(document: str) -> None:
    for program, (name, *words) in commands((ROOT / document).read_text()):
        config_class = CLASS_BY_COMMAND[program, name]
        keys = {word.removeprefix("--").partition("=")[0] for word in words if word.startswith("--")}
        assert keys <= {*COMMON_KEYS, *options_of(config_class), *groups_of(config_class)}, (name, words)


def test_every_key_that_pages_name_is_one() -> None:
    groups = {group for config_class in CLASS_BY_COMMAND.values() for group in groups_of(config_class)}
    keys = {*COMMON_KEYS, *groups}.union(*map(options_of, CLASS_BY_COMMAND.values()))
    for document in DOCUMENTS:
        for dashes, name in SPAN.findall((ROOT / document).read_text()):
            is_dotted = name.partition(".")[0] in groups and "." in name and not name.endswith(FILE_ENDINGS)
            if dashes or is_dotted:
                assert name in keys or (dashes and name in OF_OTHERS), f"{document}: {dashes}{name}"


def test_the_reference_is_as_the_code_is() -> None:
    text = (ROOT / "docs/reference/options.md").read_text()
    assert reference.with_tables(text) == text, "renew it: python -m docs.hooks.reference"
    rows = [f"padless {command.name}" for command in COMMANDS]
    rows += [key for config in reference.SHARED.values() for key in options_of(load_object(config))]
    assert [row for row in rows if not re.search(rf"^\| `{row}\b", text, re.MULTILINE)] == []


def test_the_exit_codes_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (\d+) \|", (ROOT / "docs/reference/files.md").read_text(), re.MULTILINE)
    errors = [error.exit_code for error in (UserError, ConfigError, DataError, StorageError)]
    assert [int(row) for row in rows] == [0, *errors, PREEMPTED, 128 + signal.SIGINT, 128 + signal.SIGTERM]
