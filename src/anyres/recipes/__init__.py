"""Recipes: functions that return a complete, named training configuration for a dataset.

    summary.py   what a recipe knows of the data
    builtin.py   the recipes; `RECIPES` names them
    imagenet.py  the published runs
    finetune.py  a trained model on pictures of one's own
    planning.py  what a run will take, by the speeds in measured.py
    command.py   `anyres train`: from a name, a dataset and options to a configuration

A recipe returns a whole `TrainConfig`; the command line overrides its fields. Import from the modules; this file
imports nothing.
"""
