"""The pages of the documentation: what they show runs, and they become a site without a warning."""

import html
import math
import pathlib
import re
import subprocess
import sys

import long_tail
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


def test_the_losses_work_in_every_library_that_is_shown() -> None:
    page = (ROOT / "docs" / "loss.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 4
    program = "".join(f"{block}\nprint(float(value))\n" for block in blocks)
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert ran.returncode == 0, ran.stderr
    values = [float(line) for line in ran.stdout.split()]
    assert len(values) == 4
    assert all(map(math.isfinite, values))
    # with logits of 0 the probabilities are the shares of the classes: 20, 20 and 500 of 540
    by_hand = -(6 * math.log(500 / 540) + 2 * math.log(20 / 540)) / 8
    assert math.isclose(values[0], by_hand, rel_tol=1e-5)


def test_one_line_helps_the_rarest_class_of_a_long_tail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(long_tail, "SEEDS", range(3))
    monkeypatch.setattr(sys, "argv", ["long_tail.py"])
    long_tail.main()
    printed = capsys.readouterr().out
    shown = (ROOT / "docs" / "loss.md").read_text()
    assert printed.split("\n")[:2] == re.findall(r"^\|.*\|$", shown, re.MULTILINE)[:2]
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| ([\d.]+) ± [\d.]+ \|$", printed, re.MULTILINE))
    assert float(rows["balanced_softmax"]) > 10 + float(rows["cross_entropy"])


def test_the_site_has_no_warning(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "docs", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.returncode == 0, ran.stderr
    for page in ("index", "start", "loss", "protocols", "faq", "api", "extending"):
        assert (tmp_path / f"{page}.html").exists()
    # the API has the shapes of arrays
    assert "[batch, C]" in (tmp_path / "api.html").read_text()
    # the notebook was executed: two runs, and three pictures
    notebook = (tmp_path / "notebook.html").read_text()
    assert "balanced_softmax, accuracy in % after each task: 100.0" in html.unescape(notebook)
    assert len(re.findall(r'<img [^>]*src="_images/\w+\.png"', notebook)) == 3
