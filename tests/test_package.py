"""What the wheel has."""

import pathlib
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent


def test_the_wheel_has_every_folder_of_the_package_and_the_configs() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    files = (ROOT / "bsce_jax").rglob("*.py")
    folders = {".".join(file.parent.relative_to(ROOT).parts) for file in files}
    assert listed == sorted({*folders, "bsce_jax.benchmarks", "bsce_jax.configs"})
