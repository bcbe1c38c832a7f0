"""The catalogue of methods and losses with their fields, made from the code.

python -m bsce_jax.report.catalogue     prints the tables of the README
"""

import inspect
import textwrap

from bsce_jax.fields import WIDTH, fields_of
from bsce_jax.methods import METHODS
from bsce_jax.methods.criterion import CRITERIA

MARGIN = " " * 4  # of descriptions


def text() -> str:
    """List methods and losses with the description of every field, for the terminal."""
    lines = ["methods (config.method.name, or :method=NAME)"]
    for name in METHODS:
        method = METHODS[name]
        lines += ["", f"  {name}: loss {method.loss}, head {method().head}", *_described(method)]
    lines += ["", "losses (config.loss.name, or :loss=NAME)"]
    for name in CRITERIA:
        lines += ["", f"  {name}", *_described(CRITERIA[name])]
    return "\n".join(lines)


def markdown() -> str:
    """Make the README's tables of methods and losses."""
    lines = [
        "| method | what it is | its own loss | fields of `config.method` |",
        "|---|---|---|---|",
    ]
    for name in METHODS:
        method = METHODS[name]
        lines.append(f"| `{name}` | {_summary(method)} | `{method.loss}` | {_fields(method)} |")
    lines += ["", "| loss | what it is | fields of `config.loss` |", "|---|---|---|"]
    for name in CRITERIA:
        loss = CRITERIA[name]
        lines.append(f"| `{name}` | {_summary(loss)} | {_fields(loss)} |")
    return "\n".join(lines)


def _summary(cls: type) -> str:
    return inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


def _described(cls: type) -> list[str]:
    """Fill the paragraphs of a docstring, but not those with indented lines; add the fields."""
    lines = []
    for paragraph in inspect.cleandoc(cls.__doc__ or "").split("\n\n"):
        filled = paragraph if "\n " in paragraph else textwrap.fill(paragraph, WIDTH - len(MARGIN))
        lines += [*textwrap.indent(filled, MARGIN).splitlines(), ""]
    lines.pop()
    for name, field in fields_of(cls).items():
        lines.append(field.describe(field.default, name))
    return lines


def _fields(cls: type) -> str:
    fields = fields_of(cls).items()
    return ", ".join(f"`{name}={field.default}`" for name, field in fields) or "none"


if __name__ == "__main__":
    print(markdown())
