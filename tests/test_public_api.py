"""What other programs may rely on changes on purpose only."""

import difflib

import public_api


def test_the_public_interface_is_as_listed() -> None:
    listed, found = public_api.FILE.read_text(), public_api.listing()
    changes = "\n".join(difflib.unified_diff(listed.split("\n"), found.split("\n"), n=0))
    assert found == listed, (
        f"the public interface has changed:\n{changes}\nIf this is meant, say it in CHANGELOG.md "
        "and write the list anew: .venv/bin/python tests/public_api.py"
    )
