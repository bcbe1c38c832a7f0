"""The training path: state, step, schedule, devices, checkpoints, and the run over the tasks."""
