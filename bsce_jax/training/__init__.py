"""Training: the problem, the devices, the compiled step, the stages, and the loop over tasks."""
