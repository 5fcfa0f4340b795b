# SPDX-License-Identifier: Apache-2.0
"""docs/security.md names what pyproject.toml names, and what the metadata of each distribution says."""

from __future__ import annotations

import pytest

from tests.licences import COPYLEFT, FAMILIES, PAGE, families_in, families_of, rows_of
from tests.requirements import CORE, groups_of, requirements


def test_the_page_has_every_distribution_and_no_other() -> None:
    rows = rows_of(PAGE.read_text())
    assert {name: groups for name, (_, _, groups) in rows.items()} == groups_of(requirements())


def test_licences_are_those_of_the_metadata() -> None:
    """Metadata names more or less from version to version: one licence is common, and copyleft is always the same."""
    compared = 0
    for name, (licences, copyleft, _) in rows_of(PAGE.read_text()).items():
        assert set(licences) <= set(FAMILIES), name
        assert copyleft == bool(COPYLEFT & set(licences)), name
        families = families_of(name)
        if families is not None:
            compared += 1
            assert set(licences) & set(families), f"{name} says {families}, docs/security.md {licences}"
            assert COPYLEFT & set(licences) == COPYLEFT & set(families), f"{name} says {families}"
    assert compared > 15


def test_what_everybody_installs_is_permissive() -> None:
    rows = rows_of(PAGE.read_text())
    assert [name for name, (_, copyleft, groups) in rows.items() if copyleft and CORE in groups] == []


@pytest.mark.parametrize(
    ("text", "families"),
    [
        ("GPL-3.0-or-later", ["GPL"]),
        ("GNU General Public License v2 (GPLv2)", ["GPL"]),
        ("LGPL-2.1-only", ["LGPL"]),
        ("GNU Lesser General Public License v3 or later (LGPLv3+)", ["LGPL"]),
        ("GNU Affero General Public License v3", ["AGPL"]),
        ("Mozilla Public License 2.0 (MPL 2.0)", ["MPL-2.0"]),
        ("Apache-2.0 AND Apache-2.0 WITH LLVM-exception AND MIT", ["Apache-2.0", "MIT"]),
        ("License :: OSI Approved :: BSD License", ["BSD"]),
        ("Proprietary", []),
    ],
)
def test_families_are_told_apart(text: str, families: list[str]) -> None:
    assert families_in(text) == families
