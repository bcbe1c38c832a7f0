"""What there is to choose from: methods and losses with their fields, read from the code itself.

python -m bsce_jax.report.catalogue     prints the tables of the README
"""

import dataclasses
import inspect

from bsce_jax.methods import method_class, method_names
from bsce_jax.methods.classification import loss_class, loss_names


def text() -> str:
    """Lists methods and losses with the description of every field, for the terminal."""
    lines = ["methods (config.method.name, or :method=NAME)"]
    for name in sorted(method_names()):
        method = method_class(name)
        lines += ["", f"  {name}: loss {method.loss}, head {method.head}", _indented(method)]
    lines += ["", "losses (config.loss.name, or :loss=NAME)"]
    for name in sorted(loss_names()):
        lines += ["", f"  {name}", _indented(loss_class(name))]
    return "\n".join(lines)


def markdown() -> str:
    """Makes the README's tables of methods and losses."""
    lines = [
        "| method | what it is | its own loss | fields of `config.method` |",
        "|---|---|---|---|",
    ]
    for name in sorted(method_names()):
        method = method_class(name)
        lines.append(f"| `{name}` | {_summary(method)} | `{method.loss}` | {_fields(method)} |")
    lines += ["", "| loss | what it is | fields of `config.loss` |", "|---|---|---|"]
    for name in sorted(loss_names()):
        loss = loss_class(name)
        lines.append(f"| `{name}` | {_summary(loss)} | {_fields(loss)} |")
    return "\n".join(lines)


def _summary(cls: type) -> str:
    return inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


def _indented(cls: type) -> str:
    doc = inspect.cleandoc(cls.__doc__ or "")
    return "\n".join(f"    {line}".rstrip() for line in doc.splitlines())


def _fields(cls: type) -> str:
    defaults = dataclasses.asdict(cls())
    return ", ".join(f"`{name}={value}`" for name, value in defaults.items()) or "none"


if __name__ == "__main__":
    print(markdown())
