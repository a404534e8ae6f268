"""GPUs are for the tests that ask for them; all others run everywhere as on a machine without one.

Triton's kernels run either on a GPU or in its interpreter, in all of a process.
"""

import os
import sys
from collections.abc import Sequence
from itertools import pairwise

ASKED = "ANYRES_TESTS_ON_GPUS"  # tells the processes that pytest starts


def ask_for_gpus(arguments: Sequence[str]) -> bool:
    """Whether pytest's arguments ask for tests on GPUs: `-m gpu`, `-m multi_gpu`, or a path in `tests/gpu`."""
    marks = [mark for option, mark in pairwise(arguments) if option == "-m"]
    marks += [argument[2:] for argument in arguments if argument.startswith("-m")]
    paths = [argument.replace(os.sep, "/") for argument in arguments]
    return any(mark.strip("= ") in ("gpu", "multi_gpu", "gpu or multi_gpu") for mark in marks) or any(
        "tests/gpu" in path or path.startswith("gpu/") for path in paths
    )


def hide_gpus() -> None:
    """Unless they are asked for; before CUDA is begun with."""
    if os.environ.setdefault(ASKED, str(int(ask_for_gpus(sys.argv[1:])))) == "0":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
