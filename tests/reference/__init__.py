"""A slow second version of what the compiled step computes: numpy in float64, from the papers.

It shares nothing with the package, neither code nor jax. Classes are cut to those seen, padding is
cut off, what moves is a list of names, and every formula stands as it is published.
"""
