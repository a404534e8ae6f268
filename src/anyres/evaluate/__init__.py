"""How near made images are to real ones.

    options.py     the options of `anyres evaluate` and `anyres reference`
    command.py     the two commands
    evaluation.py  one evaluation: images or a model against a reference, beside controls
    subject.py     what is evaluated
    samples.py     images sampled on the spot, in one process or several
    bench.py       what it is measured by: a network and a reference, found or made
    sources.py     a folder of images or an .npz file
    pictures.py    brought to one size by a stated protocol
    measuring.py   and seen by a network
    sets.py        sets of features, gathered as a stream
    reference.py   real images as sets of features, with a manifest
    controls.py    sets of known quality: held out, collapsed, blurred
    figures.py     the metrics of a set, by group, and its nearest training images
    metrics.py     kernel distance, precision, recall, Inception Score; moments.py: Fréchet distance
    estimates.py   values with intervals
    signatures.py  checks for known failures, by what patterns.py finds in pictures
    results.py     what an evaluation finds
    report.py      its folder; page.py, rendering.py, templates/: its page; words.py: for terminals
    stored.py      JSON files with a version
    compare.py     two of them
    sweep.py       one at each combination of settings, plots.py; presets.py: the published ones

Import from the modules; this file imports nothing.
"""
