"""The files that the records of a run are, so that files which are added later change nothing.

RUN/records.json      the names of the classes, and the keys of the training and of the test records
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable

from bsce_jax.data.source import Dataset, KeyedSource
from bsce_jax.files import write_json

SPLITS = ("train", "test")
PARTS = ("class_names", *SPLITS)


def write(folder: pathlib.Path, dataset: Dataset) -> None:
    """Write the keys of a data set's records, unless they are written or it has none."""
    keys = _keys(dataset)
    if keys is not None and keys != _read(folder):
        write_json(folder / "records.json", keys)


def without_added(
    folder: pathlib.Path, dataset: Dataset, say: Callable[[str], None] = lambda text: None
) -> Dataset:
    """Leave out the records that were added to a data set since the run of a folder began.

    Args:
      folder: of the run.
      dataset: as it is now.
      say: called with a line of text if anything is left out.

    Returns:
      The data set with the run's own records, in their order. It is unchanged if nothing was added,
      if the classes are others, if the run's records are not all there, or if they are not known.
    """
    then, now = _read(folder), _keys(dataset)
    if then is None or now is None or then["class_names"] != now["class_names"]:
        return dataset
    sources = {}
    for split in SPLITS:
        place = {key: record for record, key in enumerate(now[split])}
        if not place.keys() >= set(then[split]):
            return dataset
        source = getattr(dataset, split)
        sources[split] = source.subset([place[key] for key in then[split]])
    added = sum(len(now[split]) - len(then[split]) for split in SPLITS)
    if not added:
        return dataset
    say(f"{added} images were added since the run began: it goes on without them")
    return dataclasses.replace(dataset, **sources)


def missing(folder: pathlib.Path, dataset: Dataset) -> list[str]:
    """List the keys of the run's records that a data set lacks; none if they are not known."""
    then, now = _read(folder), _keys(dataset)
    if then is None or now is None:
        return []
    return [key for split in SPLITS for key in sorted(set(then[split]) - set(now[split]))]


def _keys(dataset: Dataset) -> dict[str, list[str]] | None:
    train, test = dataset.train, dataset.test
    if isinstance(train, KeyedSource) and isinstance(test, KeyedSource):
        names = list(dataset.class_names)
        return {"class_names": names, "train": list(train.keys), "test": list(test.keys)}
    return None


def _read(folder: pathlib.Path) -> dict[str, list[str]] | None:
    """Read the keys; None if the file is missing or damaged: the identity decides then."""
    try:
        keys = json.loads((folder / "records.json").read_text())
    except (OSError, RecursionError, ValueError):  # of JSON and of UTF-8
        return None
    if not isinstance(keys, dict) or keys.keys() != set(PARTS):
        return None
    lists = [keys[part] for part in PARTS]
    right = all(isinstance(keys, list) and all(type(k) is str for k in keys) for keys in lists)
    return keys if right and all(len(set(keys)) == len(keys) for keys in lists) else None
