"""What the wheel has, and what the lock files have and do."""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import tomllib
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


def test_the_wheel_has_every_folder_of_the_package_and_the_configs() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    files = (ROOT / "bsce_jax").rglob("*.py")
    folders = {".".join(file.parent.relative_to(ROOT).parts) for file in files}
    assert listed == sorted({*folders, "bsce_jax.benchmarks", "bsce_jax.configs"})


def _locked(extra: str) -> dict[str, set[str]]:
    """The versions of each package in a lock file, with their markers."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / "launch" / "lock" / f"{extra}.txt").read_text().splitlines():
        if "==" in line and not line.startswith((" ", "#")):
            name, version = line.removesuffix(" \\").split("==", maxsplit=1)
            found.setdefault(name, set()).add(version)
    return found


def _names(requirements: list[str]) -> set[str]:
    names = {re.split(r"[\[<>=~! ;]", each)[0] for each in requirements}
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


@pytest.mark.parametrize("extra", ["base", "dev", "cuda12", "cuda13", "tpu"])
def test_a_lock_file_has_what_the_project_asks_for(extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    asked += project["project"]["optional-dependencies"].get(extra, [])
    locked = _locked(extra)
    assert _names(asked) <= locked.keys()
    assert _locked("base").items() <= locked.items()


@pytest.mark.parametrize("extra", ["base", "dev", "cuda12", "cuda13", "tpu"])
def test_every_locked_package_has_hashes_and_no_place_of_its_own(extra: str) -> None:
    text = (ROOT / "launch" / "lock" / f"{extra}.txt").read_text()
    entries = re.split(r"\n(?=\S)", text.split("\n", 2)[2].strip())
    for entry in entries:
        assert re.fullmatch(r"\S+==[^\\\n]+( \\\n    --hash=sha256:[0-9a-f]{64})+", entry), entry
    assert len(entries) == sum(len(versions) for versions in _locked(extra).values())


def _wheel(folder: pathlib.Path, name: str) -> str:
    """Make an empty wheel; return its entry of a lock file."""
    path = folder / f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        info = f"{name}-1.dist-info"
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{name}==1 \\\n    --hash=sha256:{digest}\n"


def test_a_package_with_another_hash_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "launch" / "lock").mkdir(parents=True)
    shutil.copy(ROOT / "launch" / "environment.sh", tmp_path / "launch")
    (tmp_path / "pyproject.toml").touch()
    lock = _wheel(tmp_path, "setuptools") + _wheel(tmp_path, "tampered")
    with zipfile.ZipFile(tmp_path / "tampered-1-py3-none-any.whl", "a") as wheel:
        wheel.writestr("tampered.py", "")
    (tmp_path / "launch" / "lock" / "base.txt").write_text(lock)
    made = subprocess.run(
        ["bash", "-c", "set -e; source launch/environment.sh; make_environment"],
        cwd=tmp_path,
        env={**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert made.returncode == 1
    assert re.search(r"DO NOT MATCH THE HASHES[^\n]*\n +tampered==1 ", made.stderr), made.stderr
    assert not list((tmp_path / ".venv").glob("stamp*"))


def test_an_installation_takes_the_stamps_of_other_versions_away(tmp_path: pathlib.Path) -> None:
    (tmp_path / "launch" / "lock").mkdir(parents=True)
    shutil.copy(ROOT / "launch" / "environment.sh", tmp_path / "launch")
    (tmp_path / "pyproject.toml").touch()
    for extra in ("base", "dev", "tpu"):
        (tmp_path / "launch" / "lock" / f"{extra}.txt").write_text(f"{extra}==1")
    # the installation fails at once, since there is no such package
    commands = """set -e; source launch/environment.sh
        mkdir .venv
        _stamp tpu > .venv/stamp-tpu
        _stamp dev > .venv/stamp-dev
        echo dev==2 > launch/lock/dev.txt
        make_environment"""
    made = subprocess.run(
        ["bash", "-c", commands],
        cwd=tmp_path,
        env={**os.environ, "PIP_NO_INDEX": "1"},
        capture_output=True,
    )
    assert made.returncode != 0
    assert [path.name for path in (tmp_path / ".venv").glob("stamp*")] == ["stamp-tpu"]
