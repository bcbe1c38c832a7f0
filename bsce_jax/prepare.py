"""Prepare a data set in a data folder, where training finds it.

Examples:
  python -m bsce_jax.prepare cifar100 --data_dir data
      download it (169 MB)
  python -m bsce_jax.prepare cifar100 --source ~/cifar-100-python.tar.gz --data_dir data
      use the official archive or the unpacked cifar-100-python folder; needs no network

Exit codes: 0 done; 2 bad input; 130 stopped by Ctrl-C, with nothing left behind.
"""

import http.client
import os
import pathlib
import shlex
import shutil
import tempfile
import urllib.request
from collections.abc import Sequence

from bsce_jax.cli import Parser
from bsce_jax.data import DATASETS, cifar100
from bsce_jax.errors import UserError, exit_on_user_error, unknown

TIMEOUT = 10  # seconds without an answer


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
      argv: its arguments; None means those of the process.

    Raises:
      UserError: the data set is not available, or cannot be written.
    """
    parser = Parser(prog="python -m bsce_jax.prepare", description=__doc__)
    parser.add_argument("dataset", help=f"one of: {', '.join(DATASETS)}")
    parser.add_argument("--source", type=pathlib.Path, help="the official archive or folder")
    parser.add_argument(
        "--data_dir", type=pathlib.Path, default="data", help="folder of data sets (default: data)"
    )
    args = parser.read(argv)
    if args.dataset == "digits":
        print("digits comes with the package: nothing to prepare")
    elif args.dataset == "cifar100":
        prepare_cifar100(args.source, args.data_dir)
    elif args.dataset in DATASETS:
        print(f"{args.dataset} is read directly from --config.dataset.data_dir: nothing to prepare")
    else:
        raise unknown("data set", args.dataset, DATASETS)


def prepare_cifar100(source: pathlib.Path | None, data_dir: pathlib.Path) -> None:
    """Prepare CIFAR-100, unless it is there already.

    Args:
      source: the official archive or the unpacked folder; None to download the archive.
      data_dir: the data folder.

    Raises:
      UserError: the data is not available, is not the official one, or cannot be written.
    """
    prepared = data_dir / cifar100.PREPARED
    if os.path.isdir(prepared):
        print(f"cifar100 is prepared already, in {prepared}")
        return
    if source is None and (folder := cifar100.official_folder(data_dir)):
        print(f"cifar100 is read straight from {folder}: nothing to prepare")
        return

    from bsce_jax.data import cifar100_builder  # imports tfds, which is slow

    if source is None:
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="download-", dir=data_dir) as download:
                archive = pathlib.Path(download, "cifar-100-python.tar.gz")
                _download(archive, data_dir)
                cifar100_builder.prepare(archive, data_dir)
        except OSError as error:
            raise UserError(f"cannot write to {data_dir}: {error.strerror}") from error
    else:
        cifar100_builder.prepare(source, data_dir)
    print(f"cifar100 is prepared, in {prepared}")


def _download(archive: pathlib.Path, data_dir: pathlib.Path) -> None:
    from rich.progress import wrap_file

    try:
        with (
            urllib.request.urlopen(cifar100.URL, timeout=TIMEOUT) as response,
            archive.open("wb") as f,
        ):
            size = int(response.headers.get("Content-Length", 0))
            with wrap_file(response, size, description="downloading cifar100") as body:
                shutil.copyfileobj(body, f, 1 << 20)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"cannot download {cifar100.URL} ({getattr(error, 'reason', error)}); get the file "
            "another way and give it to `python -m bsce_jax.prepare cifar100 --source PATH "
            f"--data_dir {shlex.quote(str(data_dir))}`"
        ) from error


if __name__ == "__main__":
    exit_on_user_error(main)
