"""Packs → a model.

    config.py      every setting of a run
    loop.py        the run, on one screen
    losses.py      a pack's randomness and its losses
    teacher.py     a teacher that sees the images, in the place of stored features
    step.py        one optimizer step: gradient, update
    graphs.py      the gradient recorded as a CUDA graph
    exchange.py    gradients summed over processes, in such a recording
    update.py      clip, AdamW, average; kernels/: the same in two passes over the parameters
    state.py       what a run carries from step to step
    ema.py         averages of the weights
    checkpoint.py  saving and exact resuming
    distributed.py several processes that train one model
    stopping.py    signals, a limit of time
    folder.py      the run's folder: what is in it, and who may continue it
    metrics.py     metrics.jsonl, TensorBoard, throughput
    tracking.py    W&B and trackio
    groups.py      the loss by noise level and by size
    base.py        the trained model that a fine-tuning begins from
    overfitting.py when the held-out loss rises
    held_out.py    the loss on images that are never trained on
    pictures.py    samples during training, and the exported pipeline

Import from the modules; this file imports nothing.
"""
