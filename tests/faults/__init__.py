"""Faults put into runs: kills, damaged files, and too little space, memory or descriptors.

    .venv/bin/python -m tests.faults --hours 1

Every fault must end in one of two ways. Either the same call ends with the results of an
undisturbed run, bit for bit, or a line says what is wrong. Anything else is a failure. Growing
methods and further feeds join the table of runs in `cases.py`.
"""

import os
import pathlib
import sys

# as pytest does, so that the helpers of the tests are found
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
# the server that makes the processes of runs imports before it gets sys.path
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
