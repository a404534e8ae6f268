"""Looking at what is there: datasets and training runs as tables and plots, and where a model's tokens look.

    options.py    the options of `anyres inspect`
    command.py    `anyres inspect`
    dataset.py    a dataset in numbers
    run.py        a training run in numbers
    attention.py  the attention of a pack
    plots.py      PNG plots

Import from the modules; this file imports nothing.
"""
