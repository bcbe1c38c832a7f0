"""Small prepared tfds sets, written without TensorFlow."""

import contextlib
import io
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from PIL import Image


def png(pixels: Any) -> io.BytesIO:
    """A file of an image whose pixels are not changed by it."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(file, "PNG")
    file.seek(0)
    return file


def write(
    folder: pathlib.Path,
    features: dict[str, Any],
    splits: dict[str, list[dict[str, Any]]],
    shard: int = 3,
) -> pathlib.Path:
    """Writes a set that calls itself `photos` as DATA_DIR/NAME/VERSION."""
    folder.mkdir(parents=True)
    features_dict = tfds.features.FeaturesDict(features)
    infos = []
    for split, records in splits.items():
        parts = [records[i : i + shard] for i in range(0, max(1, len(records)), shard)]
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder,
            dataset_name="photos",
            split=split,
            filetype_suffix="array_record",
        )
        size = 0
        for number, part in enumerate(parts):
            file = template.sharded_filepath(shard_index=number, num_shards=len(parts))
            writer = array_record_module.ArrayRecordWriter(str(file), "group_size:1")
            for record in part:
                content = features_dict.serialize_example(record)
                size += len(content)
                writer.write(content)
            writer.close()
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[len(part) for part in parts],
                num_bytes=size,
                filename_template=template,
            )
        )
    with contextlib.redirect_stdout(io.StringIO()):
        tfds.folder_dataset.write_metadata(
            data_dir=folder, features=features_dict, split_infos=infos, check_data=False
        )
    return folder


def coloured(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Images 6x8 of one colour, whose red value is their number; labels 0, 1, 0, 1."""
    images = (np.broadcast_to([start + i, 0, 0], (6, 8, 3)) for i in range(count))
    return [{"image": png(image), "label": i % 2} for i, image in enumerate(images)]


def photos(folder: pathlib.Path, **splits: int) -> pathlib.Path:
    """Writes a set of encoded images of different sizes, as far as its features say."""
    features = {
        "image": tfds.features.Image(encoding_format="png"),
        "label": tfds.features.ClassLabel(names=["ant", "bee"]),
    }
    starts = dict(zip(splits, range(0, 200, 50), strict=False))
    records = {split: coloured(count, starts[split]) for split, count in splits.items()}
    return write(folder, features, records)
