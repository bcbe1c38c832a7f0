"""Class-incremental learning in JAX, built round the Balanced Softmax Cross-Entropy loss."""
