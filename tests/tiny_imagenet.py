"""A few made-up images in the official archives of ImageNet, and in folders."""

import io
import pathlib
import tarfile

import numpy as np
from PIL import Image
from scipy.io import savemat

CLASSES = ("n01440764", "n01443537", "n01484850")
TRAIN_IMAGES, TEST_IMAGES = 4, 2  # of each class


def jpeg(number: int, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> bytes:
    """An image like no other."""
    noise = np.random.default_rng(number).integers(0, 256, (3, 4, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(size).convert(mode).save(file, "JPEG", quality=95)
    return file.getvalue()


def images() -> dict[str, bytes]:
    """The files of the folder layout, by path."""
    files = {}
    for c, name in enumerate(CLASSES):
        for i in range(TRAIN_IMAGES):
            files[f"train/{name}/{name}_{i}.JPEG"] = jpeg(10 * c + i, (40, 30 + 2 * i))
        for i in range(TEST_IMAGES):
            number = 1 + c + len(CLASSES) * i  # the test images of a class are not together
            files[f"val/{name}/ILSVRC2012_val_{number:08}.JPEG"] = jpeg(100 + number)
    return files


def write_folders(folder: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_archives(folder: pathlib.Path, files: dict[str, bytes], devkit: bool) -> pathlib.Path:
    """Writes the archives as the official ones are, and the labels of the test images."""
    folder.mkdir(parents=True)
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as outer:
        for name in reversed(CLASSES):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for file, content in reversed(files.items()):
                    if file.startswith(f"train/{name}/"):
                        add(tar, file.rpartition("/")[2], content)
            add(outer, f"{name}.tar", inner.getvalue())
    tests = {f.rpartition("/")[2]: f.split("/")[1] for f in files if f.startswith("val/")}
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as tar:
        for file in sorted(tests):
            add(tar, file, files[f"val/{tests[file]}/{file}"])
    if devkit:
        write_devkit(
            folder / "ILSVRC2012_devkit_t12.tar.gz", [tests[file] for file in sorted(tests)]
        )
    else:
        lines = [f"{file} {name}" for file, name in tests.items()]
        (folder / "val.txt").write_text("\n".join(lines))
    return folder


def write_devkit(archive: pathlib.Path, classes: list[str]) -> None:
    """Writes the development kit; its class numbers are not in the order of the names."""
    numbers = {name: number for number, name in enumerate(reversed(CLASSES), 1)}
    fields = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)]
    synsets = np.array([(float(n), name, "fish") for name, n in numbers.items()], fields)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets[:, None]})
    truth = "".join(f"{numbers[name]}\n" for name in classes).encode()
    with tarfile.open(archive, "w:gz") as tar:
        add(tar, "ILSVRC2012_devkit_t12/data/meta.mat", meta.getvalue())
        add(tar, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", truth)


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
