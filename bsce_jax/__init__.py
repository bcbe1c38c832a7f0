"""Class-incremental learning in JAX, built around the Balanced Softmax Cross-Entropy loss."""

__version__ = "0.1.0"
