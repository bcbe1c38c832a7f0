"""Imports point one way: from the commands down to the formulas."""

import ast
import pathlib

import bsce_jax

PACKAGE = pathlib.Path(bsce_jax.__file__).parent
# from the bottom to the top; what stands in one line may import what stands in it
LEVELS = (
    {"errors", "files", "hosts", "registry", "fields", "streams"},
    {"losses", "metrics", "scenario", "memory"},
    {"data", "models"},
    {"methods"},
    {"optim", "callbacks"},
    {"config"},
    {"runs"},
    {"training"},
    {"loading"},
    {"cli"},
    {"report"},
    {"train", "prepare", "predict", "export", "bench", "__main__"},
)
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}
FORMULAS = LEVELS[1]


def part(module: str) -> str:
    """The part of the package that a module belongs to, such as "data" for bsce_jax.data.feed."""
    return module.split(".")[1] if "." in module else "__init__"


def imports(file: pathlib.Path) -> set[str]:
    """The parts of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {part(a.name) for a in node.names if a.name.startswith("bsce_jax.")}
        elif isinstance(node, ast.ImportFrom) and node.module == "bsce_jax":
            found |= {a.name for a in node.names if not a.name.startswith("__")}
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("bsce_jax."):
            found.add(part(str(node.module)))
    return found


def test_imports_point_down() -> None:
    files = [
        file
        for file in PACKAGE.rglob("*.py")
        if file.name != "__init__.py" or file.parent != PACKAGE
    ]
    assert len(files) > 50
    for file in files:
        own = file.relative_to(PACKAGE).with_suffix("").parts[0]
        for other in imports(file):
            assert LEVEL[other] <= LEVEL[own], f"{file} imports {other}"


def test_the_formulas_know_no_framework() -> None:
    for name in FORMULAS:
        modules = set()
        for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text())):
            if isinstance(node, ast.Import):
                modules |= {a.name.split(".")[0] for a in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add(str(node.module).split(".")[0])
        assert not modules & {"flax", "optax", "orbax", "ml_collections", "tensorflow_datasets"}
    tree = (PACKAGE / "losses.py").read_text()
    assert "bsce_jax" not in {
        n.module for n in ast.walk(ast.parse(tree)) if isinstance(n, ast.ImportFrom)
    }


def test_no_modules_import_each_other() -> None:
    needs: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        if file.name == "__init__.py":
            continue  # a package's face shows what its modules have
        module = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        needs[module] = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("bsce_jax"):
                needs[module] |= {str(node.module)}
                needs[module] |= {f"{node.module}.{alias.name}" for alias in node.names}
    for module in needs:
        reached: set[str] = set()
        todo = needs[module] & needs.keys()
        while todo:
            reached |= todo
            todo = set().union(*(needs[m] for m in todo)) & needs.keys() - reached
        assert module not in reached, f"{module} comes back to itself"
