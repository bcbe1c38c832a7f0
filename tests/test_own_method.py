"""The example of docs/own_method.md works as it stands."""

import pathlib
import re

from bsce_jax import methods, train
from bsce_jax.training.run import run

ROOT = pathlib.Path(__file__).resolve().parent.parent


def test_the_example_is_one_short_file_and_runs(tmp_path: pathlib.Path) -> None:
    page = (ROOT / "docs" / "own_method.md").read_text()
    match = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert match is not None
    code = [line for line in match.group(1).splitlines() if line.strip()]
    assert len(code) <= 30
    file = tmp_path / "anchor.py"
    file.write_text(match.group(1))
    known = set(methods.method_names())
    try:
        argv = [f"--config={file}", f"--workdir={tmp_path / 'run'}", "--config.train.epochs=1"]
        results = run(*train.parse(argv))
    finally:
        for name in set(methods.method_names()) - known:
            del methods._METHODS[name]
    assert results["method"] == "anchor"
    log = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"anchor":' in log
