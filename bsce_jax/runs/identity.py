"""The identity of a run: the fields of its config that alter results, and its data."""

import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from bsce_jax import config as config_lib
from bsce_jax.data import Dataset
from bsce_jax.data.source import digest
from bsce_jax.errors import UserError
from bsce_jax.runs import known
from bsce_jax.runs.start import Start


def identity(config: ConfigDict, dataset: Dataset, start: Start | None = None) -> dict[str, Any]:
    """Describe the config and the data of a run as a JSON object.

    Args:
      config: of the run.
      dataset: of the run.
      start: the weights that it starts from, which count as data; None for random ones.
    """
    facts: dict[str, Any] = {
        "name": dataset.name,
        "image shape": list(dataset.image_shape),
        "class names": digest(
            *(name.encode(errors="surrogatepass") for name in dataset.class_names)
        ),
    }
    for kind, source in (("training", dataset.train), ("test", dataset.test)):
        facts[f"number of {kind} images"] = len(source.labels)
        facts[f"{kind} labels"] = digest(source.labels.tobytes())
        facts[f"{kind} images"] = source.identity
    if start:
        facts["initial weights"] = start.identity
    values = config_lib.flat(config.to_dict())
    return {"config": {path: _plain(value) for path, value in values.items()}, "data": facts}


def refuse_another(
    folder: pathlib.Path, there: Mapping[str, Any], here: Mapping[str, Any], dataset: Dataset
) -> None:
    """Check that the run of a folder has a given identity.

    Args:
      folder: of the run.
      there: the identity in its checkpoints.
      here: the identity of the present config and data.
      dataset: the present data.

    Raises:
      UserError: they differ; the message says where.
    """
    differences = config_lib.differences(there["config"], here["config"])
    if differences:
        raise UserError(
            f"{folder} holds a run of another config ({'; '.join(differences)}): choose another "
            "--workdir, or remove that one"
        )
    then, now = there["data"], here["data"]
    # initial weights are a fact of either alone where the other began with random ones
    changed = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    if changed:
        name = changed[0]
        more = f" ({then.get(name)} then, {now.get(name)} now)" if "number" in name else ""
        if gone := known.missing(folder, dataset):
            more += f", {gone[0].rpartition(':')[0]} is missing or has another size"
            more += f", as have {len(gone) - 1} more" if gone[1:] else ""
        raise UserError(
            f"the data is not what {folder} was trained on: the {name} changed{more}; bring the "
            "old data back, or choose another --workdir"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
