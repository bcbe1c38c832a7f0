"""Images read and decoded per second of CPU time, from a data set that was prepared or in folders.

    taskset -c 0 .venv/bin/python benchmarks/reading.py imagenet_subset 84 --data_dir data

A record is the bytes of an image with its label; folders have none. The records are in random
order, and the files are in the operating system's cache. The last figure is of images that the
streamed feed brought to a device, in chunks of two batches of 128.
"""

import time
from collections.abc import Callable

import numpy as np

from bsce_jax import data
from bsce_jax.cli import Parser
from bsce_jax.data.stream import StreamedFeed
from bsce_jax.data.tfds_source import TfdsSource
from bsce_jax.errors import exit_on_user_error
from bsce_jax.training.fit import ahead
from bsce_jax.training.mesh import make_mesh

IMAGES = 2000


def per_second(work: Callable[[], object], count: int) -> float:
    """Measure how often something is done in a second of CPU time, in all threads."""
    work()
    start = time.process_time()
    work()
    return count / (time.process_time() - start)


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("dataset", help="as config.dataset.name")
    parser.add_argument("size", type=int, help="height and width, in pixels")
    parser.add_argument("--data_dir", default="data")
    args = parser.read()
    train = data.load(args.dataset, args.data_dir, args.size).train
    records = np.random.default_rng(0).permutation(len(train.labels))[:IMAGES]
    if isinstance(train, TfdsSource):
        read = train.read
        print(f"{per_second(lambda: [read(r) for r in records], len(records)):,.0f} records/s")
    print(f"{per_second(lambda: train.images(records), len(records)):,.0f} images/s decoded")
    feed = StreamedFeed(train, records, make_mesh())
    rows = records[: len(records) // 256 * 256].reshape(-1, 2, 128)

    def stream() -> None:
        for row in ahead(lambda i: feed.put(rows[i]), range(len(rows))):
            row.block_until_ready()

    print(f"{per_second(stream, rows.size):,.0f} images/s streamed")


if __name__ == "__main__":
    exit_on_user_error(main)
