"""`python -m bsce_jax.prepare`: a data set is ready afterwards, or nothing has happened."""

import contextlib
import pathlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tiny_cifar100
from test_data import assert_same

from bsce_jax import data
from bsce_jax.data import cifar100
from bsce_jax.errors import NoSpace, UserError
from bsce_jax.prepare import main

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    path = tmp_path / "official" / cifar100.FOLDER
    tiny_cifar100.write(path, monkeypatch)
    return path


@pytest.fixture
def data_dir(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "my data"


def run(*arguments: object) -> None:
    main(["cifar100", *map(str, arguments)])


@pytest.mark.parametrize("form", ["folder", "parent", "archive"])
def test_prepared_data_equals_the_official_files(
    folder: pathlib.Path,
    data_dir: pathlib.Path,
    tmp_path: pathlib.Path,
    capfd: pytest.CaptureFixture[str],
    form: str,
) -> None:
    archive = tiny_cifar100.pack(folder, tmp_path / "a.tar.gz")
    source = {"folder": folder, "parent": folder.parent, "archive": archive}[form]
    run("--source", source, "--data_dir", data_dir)
    assert_same(data.load("cifar100", data_dir), data.load("cifar100", folder))
    assert [path.name for path in data_dir.iterdir()] == ["cifar100_python"]
    output = capfd.readouterr()
    assert output.out == f"cifar100 is prepared, in {data_dir / cifar100.PREPARED}\n"
    assert output.err == ""


def test_second_time_does_nothing(
    folder: pathlib.Path, data_dir: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--source", folder, "--data_dir", data_dir)
    files = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")}
    run("--source", "not looked at", "--data_dir", data_dir)
    assert "is prepared already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")} == files


def test_unpacked_folder_in_the_data_folder_is_enough(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--data_dir", folder.parent)
    assert f"read straight from {folder}" in capsys.readouterr().out
    assert list(folder.parent.iterdir()) == [folder]


def test_digits_need_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["digits"])
    assert "nothing to prepare" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_tensorflow_is_not_imported_where_it_is_installed(
    folder: pathlib.Path, data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "tensorflow.py").write_text("raise AssertionError('tensorflow is imported')")
    script = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from bsce_jax import data, prepare
from bsce_jax.data import cifar100
cifar100.MD5.update({cifar100.MD5!r})
prepare.main(["cifar100", "--source", {str(folder)!r}, "--data_dir", {str(data_dir)!r}])
print(len(data.load("cifar100", {str(data_dir)!r}).train.labels))
assert "tensorflow" not in sys.modules
"""
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "12"


# --- what goes wrong


def test_command_ends_with_one_line_and_code_2() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "bsce_jax.prepare", "cifar"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr == "error: unknown data set 'cifar'; did you mean cifar100?\n"
    assert result.stdout == ""


@pytest.mark.parametrize("name", ["train", "meta"])
def test_wrong_file_leaves_nothing(folder: pathlib.Path, data_dir: pathlib.Path, name: str) -> None:
    (folder / name).write_bytes(b"not it")
    with pytest.raises(UserError, match=f"{name} in .* its md5 is .*, not {cifar100.MD5[name]}"):
        run("--source", folder, "--data_dir", data_dir)
    assert list(data_dir.rglob("*")) == []


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (KeyboardInterrupt("Ctrl-C"), pytest.raises(KeyboardInterrupt)),
        (
            RuntimeError("No space left on device"),  # as array_record says it
            pytest.raises(NoSpace, match="no space left in"),
        ),
        (
            RuntimeError("the record is too large"),
            pytest.raises(UserError, match=r"cannot write to .*the record is too large"),
        ),
    ],
)
def test_interruption_leaves_nothing(
    folder: pathlib.Path,
    data_dir: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: BaseException,
    expected: contextlib.AbstractContextManager[object],
) -> None:
    from bsce_jax.data import cifar100_builder

    def generate(self: object, split: data.Source) -> Iterator[tuple[int, dict[str, Any]]]:
        yield 0, {"image": split.images([0])[0], "label": 0}
        assert list(data_dir.rglob("*incomplete*")) != []
        raise stop

    monkeypatch.setattr(cifar100_builder.Cifar100Python, "_generate_examples", generate)
    with expected:
        run("--source", folder, "--data_dir", data_dir)
    assert list(data_dir.rglob("*")) == []


@pytest.mark.parametrize("download", [False, True])
def test_data_folder_that_cannot_be_written(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, download: bool
) -> None:
    monkeypatch.setattr(cifar100, "URL", "file:///nowhere")
    (tmp_path / "file").touch()
    source = () if download else ("--source", folder)
    with pytest.raises(UserError, match=r"cannot write to .*file/data: .*Not a directory"):
        run(*source, "--data_dir", tmp_path / "file" / "data")


@pytest.mark.parametrize(
    "pattern", ["*test.array_record*", "*train.array_record*", "features.json"]
)
def test_damaged_prepared_data_is_refused(
    folder: pathlib.Path, data_dir: pathlib.Path, pattern: str
) -> None:
    run("--source", folder, "--data_dir", data_dir)
    (file,) = data_dir.rglob(pattern)
    file.rename(file.with_name("gone"))
    with pytest.raises(UserError, match=r"is damaged: .*; delete it and prepare it again"):
        data.load("cifar100", data_dir)


# --- downloads


def test_download(
    folder: pathlib.Path,
    data_dir: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    archive = tiny_cifar100.pack(folder, tmp_path / "a.tar.gz")
    monkeypatch.setattr(cifar100, "URL", archive.as_uri())
    run("--data_dir", data_dir)
    assert_same(data.load("cifar100", data_dir), data.load("cifar100", folder))
    assert [path.name for path in data_dir.iterdir()] == ["cifar100_python"]


def test_download_of_something_else_leaves_nothing(
    folder: pathlib.Path,
    data_dir: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "page").write_text("<html>log in first</html>")
    monkeypatch.setattr(cifar100, "URL", (tmp_path / "page").as_uri())
    with pytest.raises(UserError, match="md5"):
        run("--data_dir", data_dir)
    assert list(data_dir.rglob("*")) == []


def test_offline_says_what_to_do(data_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))  # and does not listen: the connection is refused
        port = server.getsockname()[1]
        monkeypatch.setattr(cifar100, "URL", f"http://127.0.0.1:{port}/cifar.tar.gz")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with pytest.raises(UserError) as error:
            run("--data_dir", data_dir)
    command = f"python -m bsce_jax.prepare cifar100 --source PATH --data_dir '{data_dir}'"
    assert f"cannot download http://127.0.0.1:{port}" in str(error.value)
    assert "refused" in str(error.value)
    assert command in str(error.value)
    assert "\n" not in str(error.value)
    assert list(data_dir.rglob("*")) == []


def test_silent_server_is_given_up(data_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bsce_jax.prepare.TIMEOUT", 0.2)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/cifar.tar.gz"
        monkeypatch.setattr(cifar100, "URL", url)
        with pytest.raises(UserError, match=r"cannot download .*timed out"):
            run("--data_dir", data_dir)


def test_a_source_is_refused_where_none_is_read() -> None:
    with pytest.raises(UserError, match="--source x is not for digits: it takes none"):
        main(["digits", "--source", "x"])


@pytest.mark.parametrize(
    ("dataset", "option"),
    [("cifar100", "--max_unreadable=1"), ("image_folder", "--size=8"), ("imagenet", "--seed=0")],
)
def test_an_option_of_another_set_is_refused(dataset: str, option: str) -> None:
    with pytest.raises(UserError, match=rf"{option[:-2]} is for image.*, not {dataset}"):
        main([dataset, option, "--source", "x"])


# --- the real thing


@pytest.mark.slow
def test_real_cifar100(cifar100_folder: pathlib.Path, data_dir: pathlib.Path) -> None:
    official = data.load("cifar100", cifar100_folder.parent)
    run("--source", cifar100_folder, "--data_dir", data_dir)
    assert_same(data.load("cifar100", data_dir), official)
    assert official.class_names[:3] == ("apple", "aquarium_fish", "baby")
    assert official.class_names[-1] == "worm"
    assert np.bincount(official.train.labels).tolist() == [500] * 100
    assert np.bincount(official.test.labels).tolist() == [100] * 100
    # the published mean is that of the training images, in the order red, green, blue
    mean = data.all_images(official.train).mean(axis=(0, 1, 2)) / 255
    np.testing.assert_allclose(mean, official.mean, atol=1e-4)
