"""Layouts of image folders: what is found in each, and what is said about others."""

import os
import pathlib
from collections.abc import Iterable

import pytest

from bsce_jax.data import layouts
from bsce_jax.errors import UserError


def touch(folder: pathlib.Path, *files: str) -> pathlib.Path:
    """Make files whose contents nobody reads."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


def pairs(split: layouts.Split | None) -> list[tuple[str, str]]:
    """The files from the folder of the split on, and their classes."""
    assert split is not None
    assert all((split.folder / file).exists() for file in split.files)
    return list(zip(split.files, split.classes, strict=True))


def write(file: pathlib.Path, lines: Iterable[str]) -> None:
    file.write_text("".join(line + "\n" for line in lines))


def test_a_folder_for_each_class(tmp_path: pathlib.Path) -> None:
    touch(tmp_path, "cat/2.jpg", "cat/1.PNG", "ant/x.webp", "ant/notes.txt", "docs/a.pdf", "a.jpg")
    found = layouts.find(tmp_path)
    assert pairs(found.train) == [("ant/x.webp", "ant"), ("cat/1.PNG", "cat"), ("cat/2.jpg", "cat")]
    assert found.train.class_names == ["ant", "cat"]
    assert found.test is None


@pytest.mark.parametrize("name", layouts.TESTS)
def test_two_splits(tmp_path: pathlib.Path, name: str) -> None:
    touch(tmp_path, "train/b/1.jpg", "train/a/1.jpg", f"{name}/a/2.jpg", f"{name}/b/2.jpg")
    found = layouts.find(tmp_path)
    assert pairs(found.train) == [("a/1.jpg", "a"), ("b/1.jpg", "b")]
    assert pairs(found.test) == [("a/2.jpg", "a"), ("b/2.jpg", "b")]


def test_of_two_test_folders_val_is_taken(tmp_path: pathlib.Path) -> None:
    touch(tmp_path, "train/a/1.jpg", "test/a/2.jpg", "val/a/3.jpg")
    assert pairs(layouts.find(tmp_path).test) == [("a/3.jpg", "a")]


def test_test_images_without_labels_do_not_count(tmp_path: pathlib.Path) -> None:
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "test/images/1.jpg")
    assert layouts.find(tmp_path).test is None


@pytest.mark.parametrize("names", [("Train", "Test"), ("training", "testing"), ("train", "Val")])
def test_other_names_of_splits_are_refused(tmp_path: pathlib.Path, names: tuple[str, str]) -> None:
    for name in names:
        touch(tmp_path / name, "a/1.jpg", "b/1.jpg")
    with pytest.raises(UserError, match=r"train/CLASS/\*\.jpg and val/CLASS/"):
        layouts.find(tmp_path)


def test_other_names_are_those_of_classes_too(tmp_path: pathlib.Path) -> None:
    touch(tmp_path, "Train/1.jpg", "bus/1.jpg", "training/a/1.jpg")
    assert layouts.find(tmp_path).train.class_names == ["Train", "bus", "training"]
    touch(tmp_path / "split", "train/a/1.jpg", "train/b/1.jpg", "Test/unlabelled/1.jpg")
    assert layouts.find(tmp_path / "split").test is None


def test_images_may_be_deeper(tmp_path: pathlib.Path) -> None:
    touch(tmp_path, "train/a/images/1.jpg", "train/a/2024/may/1.jpg", "val/a/1.jpg")
    assert pairs(layouts.find(tmp_path).train) == [
        ("a/2024/may/1.jpg", "a"),
        ("a/images/1.jpg", "a"),
    ]


def test_a_folder_that_holds_all_else_is_looked_into(tmp_path: pathlib.Path) -> None:
    touch(tmp_path, "photos/a/1.jpg", "photos/b/1.jpg", "__MACOSX/._a", "README.txt")
    found = layouts.find(tmp_path)
    assert found.train.folder == tmp_path / "photos"
    assert found.train.class_names == ["a", "b"]


def test_a_class_may_be_a_train(tmp_path: pathlib.Path) -> None:
    touch(tmp_path, "train/1.jpg", "bus/1.jpg", "test/1.jpg")
    assert layouts.find(tmp_path).train.class_names == ["bus", "test", "train"]


def test_tiny_imagenet(tmp_path: pathlib.Path) -> None:
    touch(tmp_path, "train/n2/images/n2_0.JPEG", "train/n1/images/n1_0.JPEG")
    touch(tmp_path, "val/images/val_0.JPEG", "val/images/val_1.JPEG", "test/images/test_0.JPEG")
    write(tmp_path / "train/n1/n1_boxes.txt", ["n1_0.JPEG\t0\t0\t9\t9"])
    boxes = ["val_0.JPEG\tn2\t0\t32\t44\t62", "val_1.JPEG\tn1\t52\t55\t57\t59"]
    write(tmp_path / "val/val_annotations.txt", boxes)
    found = layouts.find(tmp_path)
    assert [name for _, name in pairs(found.train)] == ["n1", "n2"]
    assert pairs(found.test) == [("val_1.JPEG", "n1"), ("val_0.JPEG", "n2")]


def test_lists_of_names(tmp_path: pathlib.Path) -> None:
    touch(tmp_path, "my pics/1.jpg", "my pics/2.jpg", "x/3.jpg", "x/not listed.jpg")
    write(tmp_path / "train.txt", ["my pics/2.jpg dog", "", "./my pics/1.jpg cat"])
    write(tmp_path / "test.txt", ["x/3.jpg dog"])
    with pytest.raises(UserError, match=r"class cat is in train\.txt and not in test\.txt"):
        layouts.find(tmp_path)
    (tmp_path / "test.txt").unlink()
    assert pairs(layouts.find(tmp_path).train) == [
        ("my pics/1.jpg", "cat"),
        ("my pics/2.jpg", "dog"),
    ]


@pytest.mark.parametrize("named", [False, True])
def test_lists_of_numbers(tmp_path: pathlib.Path, named: bool) -> None:
    """Numbers are sorted as such: 2 before 10."""
    touch(tmp_path, "images/1.jpg", "images/2.jpg", "val/3.jpg", "val/4.jpg")
    write(tmp_path / "train.txt", ["1.jpg 10", "2.jpg 2"])
    write(tmp_path / "val.txt", ["3.jpg 10", "4.jpg 2"])
    names = ["2", "10"]
    if named:
        write(tmp_path / "classes.txt", [f"name {i}" for i in (9, 8, 7, 6, 5, 4, 3, 2, 1, 0, "x")])
        names = ["name 7", "name x"]
    found = layouts.find(tmp_path)
    assert found.train.class_names == names
    assert pairs(found.train) == [("2.jpg", names[0]), ("1.jpg", names[1])]
    assert pairs(found.test) == [("4.jpg", names[0]), ("3.jpg", names[1])]


def test_train_folders_and_a_list_of_test_images(tmp_path: pathlib.Path) -> None:
    touch(tmp_path, "train/a/1.jpg", "val/1.jpg")
    write(tmp_path / "val.txt", ["1.jpg a"])
    assert pairs(layouts.find(tmp_path).test) == [("1.jpg", "a")]


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["1.jpg"], "line 1: '1.jpg' is not `FILE CLASS`"),
        (["1.jpg a", "", "1.jpg b"], "line 3: 1.jpg is listed twice"),
        (["2.jpg a"], "lists 2.jpg, which is not in "),
        ([], "lists no images"),
    ],
)
def test_wrong_lists_are_refused(tmp_path: pathlib.Path, lines: list[str], why: str) -> None:
    touch(tmp_path, "1.jpg")
    write(tmp_path / "train.txt", lines)
    with pytest.raises(UserError) as error:
        layouts.find(tmp_path)
    assert why in str(error.value)
    assert "train.txt" in str(error.value)


def test_an_image_of_both_lists_is_refused(tmp_path: pathlib.Path) -> None:
    touch(tmp_path, "1.jpg", "2.jpg")
    write(tmp_path / "train.txt", ["1.jpg a"])
    write(tmp_path / "test.txt", ["1.jpg a", "2.jpg a"])
    with pytest.raises(UserError, match=r"1\.jpg is in both train\.txt and test\.txt"):
        layouts.find(tmp_path)


def test_a_number_without_a_name_is_refused(tmp_path: pathlib.Path) -> None:
    touch(tmp_path, "1.jpg")
    write(tmp_path / "classes.txt", ["cat", "dog"])
    write(tmp_path / "train.txt", ["1.jpg 2"])
    with pytest.raises(UserError, match=r"line 1: class 2 is not one of the 2 of classes\.txt"):
        layouts.find(tmp_path)


@pytest.mark.parametrize(
    ("files", "why"),
    [
        (["1.jpg", "2.jpg"], "no images in folders of classes"),
        (["cat/1.txt"], "no images in folders of classes"),
        (["cat/1.jpg", "cat/2.jpg"], "images of one class, cat"),
    ],
)
def test_other_layouts_tell_what_is_right(
    tmp_path: pathlib.Path, files: list[str], why: str
) -> None:
    with pytest.raises(UserError) as error:
        layouts.find(touch(tmp_path, *files))
    assert str(error.value).startswith(f"{tmp_path} has {why}: it should hold a folder for each")


def test_links_to_folders_are_not_followed_in_circles(tmp_path: pathlib.Path) -> None:
    touch(tmp_path, "elsewhere/1.jpg", "set/b/1.jpg")
    os.symlink(tmp_path / "elsewhere", tmp_path / "set/a")  # a class may be a link
    os.symlink(tmp_path / "set", tmp_path / "set/b/again")
    assert pairs(layouts.find(tmp_path / "set").train) == [("a/1.jpg", "a"), ("b/1.jpg", "b")]
