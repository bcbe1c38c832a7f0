"""launch/audit.sh: what it makes of what pip-audit says."""

import json
import pathlib
import sys
from typing import Any

import pytest
from launch_tools import Checkout, program

KNOWN = [{"name": "a", "version": "1", "vulns": [{"id": "ID-2"}, {"id": "ID-1"}]}]
CLEAN = [{"name": "b", "version": "2", "vulns": []}]
SKIPPED = [{"name": "c", "version": "3", "skip_reason": "not found"}]
UNREACHED = (
    "audit: no list of known vulnerabilities can be reached from here; nothing was checked\n"
)


@pytest.mark.parametrize(
    ("pypi", "osv", "code", "expected"),
    [
        (None, None, 0, UNREACHED),
        (SKIPPED, None, 0, UNREACHED),
        (SKIPPED, CLEAN, 0, "audit: 1 packages were checked\n"),
        (CLEAN, None, 0, "audit: 1 packages were checked\n"),
        (KNOWN + SKIPPED, CLEAN, 1, "audit: a 1 has ID-1, ID-2\naudit: 2 packages were checked\n"),
    ],
)
def test_the_audit_tells_a_known_vulnerability_from_a_list_that_is_out_of_reach(
    tmp_path: pathlib.Path, pypi: Any, osv: Any, code: int, expected: str
) -> None:
    checkout = Checkout(tmp_path)
    lines = ["#!/usr/bin/env bash", 'case "$*" in *--dry-run*) exit ;; esac']
    for name, packages in (("pypi", pypi), ("osv", osv)):
        printed = f"echo '{json.dumps({'dependencies': packages})}';" if packages else ""
        # as pip-audit: 1 for a known vulnerability and for a look-up that failed
        lines.append(f'case "$*" in *{name}*) {printed} exit 1 ;; esac')
    program(checkout.path / ".venv" / "bin" / "pip-audit", "\n".join(lines))
    program(checkout.path / ".venv" / "bin" / "python", f'#!/bin/sh\nexec {sys.executable} "$@"')
    assert checkout.run("audit.sh", code=code) == expected


def test_the_audit_of_a_broken_lock_file_is_an_error(tmp_path: pathlib.Path) -> None:
    checkout = Checkout(tmp_path)
    text = "#!/bin/sh\necho ERROR: the lock file is broken >&2\nexit 1\n"
    program(checkout.path / ".venv" / "bin" / "pip-audit", text)
    assert checkout.run("audit.sh", code=2) == "ERROR: the lock file is broken\n"
