"""Results and the lists of methods and losses, for people to read."""
