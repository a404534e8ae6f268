"""The one server that forks the tests' processes, with everything imported that they import.

A process that imports for itself takes seconds, one that computes far less. A session has only one such server, and
what it imports is what was asked for last: hence one list.
"""

import multiprocessing

import torch

IMPORTED = (
    "tests.distributed.processes",
    "tests.train.test_run",
    "anyres.sample.folder",
    "anyres.train.kernels.adamw",
    "datasets",
    "diffusers.models.autoencoders",
    "einops._torch_specific",
    "fsspec",
    "huggingface_hub.serialization",
    "pyarrow.compute",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "pytest",
    "rich.console",
    "rich.progress",
    "safetensors.torch",
    "torch._dynamo",
    "torch.utils.tensorboard",
)
# among what is imported something looks for GPUs, and a fork of who has done so cannot use them
SERVER = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "forkserver")
SERVER.set_forkserver_preload(list(IMPORTED))
