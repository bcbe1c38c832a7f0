"""Write a trained run as a program that needs jax and not this package.

Example:
  python -m bsce_jax.export --workdir runs/pets --out pets_model

The folder then has:
  program.jax_export    StableHLO for CPUs, CUDA GPUs and TPUs, for batches of any size, as
                        jax.export serialises it: from uint8 images, through their normalisation,
                        the network and the method's correction, to a number for each class
  weights.safetensors   the arrays that the program uses
  labels.json           the class names in the order of the numbers, what the numbers are, and the
                        shape of the images
  load.py               `from load import predict` calls the program; it needs jax and flatbuffers,
                        with which jax reads programs

--by cnn gives probabilities, --by nme the cosine similarities to the mean features of the classes.

Exit codes: 0 done; 2 bad input; 3 no space left; 4 the bucket cannot be reached;
130 stopped by Ctrl-C.
"""

import functools
import json
import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bsce_jax.cli import Parser, local_path
from bsce_jax.errors import UserError, exit_on_user_error, shown, using

if TYPE_CHECKING:
    import jax
    import numpy as np
    from jax.export import Exported

    from bsce_jax.runs.saved import Kind, SavedRun

PLATFORMS = ("cpu", "cuda", "tpu")
LOAD = '''\
"""Call the program of this folder: `from load import class_names, predict`."""

import json
import pathlib

import numpy as np
from jax import export

_folder = pathlib.Path(__file__).parent
_raw = memoryview((_folder / "weights.safetensors").read_bytes())
_start = 8 + int.from_bytes(_raw[:8], "little")
_types = {"F32": np.float32, "I32": np.int32, "U32": np.uint32, "BOOL": np.bool_}
_weights = {}
for _name, _array in json.loads(bytes(_raw[8:_start])).items():
    _part = _raw[_start:][slice(*_array["data_offsets"])]
    _weights[_name] = np.frombuffer(_part, _types[_array["dtype"]]).reshape(_array["shape"])
_program = export.deserialize(bytearray((_folder / "program.jax_export").read_bytes()))
class_names = json.loads((_folder / "labels.json").read_text())["class_names"]


def predict(images):
    """Map uint8 [n, height, width, channels], n > 0, to float32 [n, classes]; see labels.json."""
    return np.asarray(_program.call(_weights, np.asarray(images)))
'''


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
      argv: its arguments; None means those of the process.

    Raises:
      UserError: invalid arguments, no usable model, or the folder cannot be written.
    """
    parser = Parser(opens_runs=True, prog="python -m bsce_jax.export", description=__doc__)
    parser.add_argument("--workdir", required=True, metavar="DIR", help="folder of the run")
    parser.add_argument("--out", required=True, type=local_path, metavar="DIR", help="a new folder")
    parser.add_argument("--by", default="cnn", help="cnn or nme (default: cnn)")
    args = parser.read(argv)
    out = args.out
    with using(out):
        if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
            raise UserError(f"--out {out} exists already: name a new folder")
    from bsce_jax.runs.saved import SavedRun

    # on CPUs some operations have implementations of their own
    variants = {name: SavedRun.open(args.workdir, platform=name) for name in ("cpu", "cuda")}
    run = variants["cpu"]
    run.check(args.by)
    program, weights = trace(variants["cpu"], variants["cuda"], args.by)
    labels = {
        "class_names": list(run.class_names),
        "numbers": {"cnn": "probability", "nme": "cosine"}[args.by],
        "image_shape": list(run.image_shape),
        "fit": run.fit,
    }
    from safetensors.numpy import save

    with using(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{out.name}-", dir=out.parent) as temporary:
            folder = pathlib.Path(temporary, "model")
            folder.mkdir()
            (folder / "program.jax_export").write_bytes(program.serialize())
            (folder / "weights.safetensors").write_bytes(save(weights))
            (folder / "labels.json").write_text(json.dumps(labels, indent=1) + "\n")
            (folder / "load.py").write_text(LOAD)
            os.replace(folder, out)
    size = sum(file.stat().st_size for file in out.iterdir())
    print(
        f"{shown(str(run.folder))} is exported, in {out}: {len(run.class_names)} classes, "
        f"{size / 1e6:.1f} MB"
    )


def trace(
    on_cpu: "SavedRun", elsewhere: "SavedRun", by: "Kind"
) -> "tuple[Exported, dict[str, np.ndarray]]":
    """Trace a model's predictions for batches of any size on all `PLATFORMS`.

    Args:
      on_cpu: the model with the operations for CPUs.
      elsewhere: the same model with those for other platforms.
      by: `cnn` for probabilities, or `nme` for cosines.

    Returns:
      The program, (weights, uint8 [n, height, width, channels]) -> float32 [n, seen], and the
      weights that it uses, by path.
    """
    import jax
    import numpy as np
    from jax import export

    def predict(
        run: "SavedRun", weights: dict[str, "jax.Array"], images: "jax.Array"
    ) -> "jax.Array":
        # the batch is added from outside: the network need not know that its size is free
        full = {**run.weights, **weights}
        scores = jax.vmap(lambda image: run.score(full, image[None], by)[0])(images)
        return jax.nn.softmax(scores, axis=-1) if by == "cnn" else scores

    def program(weights: dict[str, "jax.Array"], images: "jax.Array") -> "jax.Array":
        return jax.lax.platform_dependent(
            weights,
            images,
            cpu=functools.partial(predict, on_cpu),
            default=functools.partial(predict, elsewhere),
        )

    # arrays that only training uses, such as a Fisher information, are left out; jax tells them
    # only for a batch of known size
    one = jax.ShapeDtypeStruct((1, *on_cpu.image_shape), np.uint8)
    traced = export.export(jax.jit(functools.partial(predict, on_cpu)))(on_cpu.weights, one)
    names = sorted(on_cpu.weights)  # as jax flattens a dict
    used = [names[i] for i in traced.module_kept_var_idx if i < len(names)]
    weights = {name: np.asarray(on_cpu.weights[name]) for name in used}
    sizes = ", ".join(map(str, on_cpu.image_shape))
    images = jax.ShapeDtypeStruct(export.symbolic_shape(f"n, {sizes}"), np.uint8)
    return export.export(jax.jit(program), platforms=PLATFORMS)(weights, images), weights


if __name__ == "__main__":
    exit_on_user_error(main)
