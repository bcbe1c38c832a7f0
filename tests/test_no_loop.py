"""No method has a training loop of its own."""

import ast
import pathlib

import pytest

from bsce_jax import methods

GRADIENTS = {"grad", "value_and_grad", "vjp", "jvp", "linearize"}
# what an optimiser is not made of: optax's names that methods may use
NO_OPTIMISER = {
    *("GradientTransformation", "GradientTransformationExtraArgs", "EmptyState"),
    *("identity", "clip"),
}
# a problem of two unknowns after training, squared gradients of Fisher information, a loss that
# itself learns
ALLOWED = {
    "bic.py": {"scipy.optimize"},
    "ewc.py": {"jax.grad"},
    "meta.py": {"jax.grad", "optax.adam", "optax.OptState"},
}


def means_of_training(source: str) -> set[str]:
    """Finds what a training loop cannot do without: gradients, optimisers, the run's own loop."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names] + [str(node.module)]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            modules = [f"{node.value.id}.{node.attr}"]
        for module in modules:
            head, _, last = module.rpartition(".")
            if module.startswith("bsce_jax.training"):
                found.add("bsce_jax.training")
            if module.startswith("scipy.optimize"):
                found.add("scipy.optimize")
            if head.startswith("optax") and last not in NO_OPTIMISER:
                found.add(module)
            if head.startswith("jax") and last in GRADIENTS:
                found.add(module)
    return found


FOLDER = pathlib.Path(methods.__file__).parent


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.name)
def test_no_method_has_a_training_loop(file: pathlib.Path) -> None:
    assert means_of_training(file.read_text()) == ALLOWED.get(file.name, set())


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from bsce_jax.training.stage import fit", "bsce_jax.training"),
        ("import bsce_jax.training.stage", "bsce_jax.training"),
        ("optimizer = optax.adam(0.1)", "optax.adam"),
        ("from optax import sgd", "optax.sgd"),
        ("params = optax.apply_updates(params, updates)", "optax.apply_updates"),
        ("g = jax.grad(loss)(params)", "jax.grad"),
        ("from jax import value_and_grad", "jax.value_and_grad"),
        ("from scipy.optimize import minimize", "scipy.optimize"),
    ],
)
def test_a_training_loop_would_be_found(line: str, found: str) -> None:
    assert means_of_training(line) == {found}
