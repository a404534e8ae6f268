"""A made base model, and pictures prepared for it: one label that it knows, one that it does not."""

from dataclasses import replace
from pathlib import Path

from anyres.latents.format import LatentDataset
from anyres.prepare.encode import prepare
from anyres.prepare.options import PrepareOptions
from anyres.recipes.finetune import finetune
from anyres.recipes.summary import DataSummary
from anyres.train.base import BaseModel
from anyres.train.config import HeldOutConfig, PicturesConfig, TrainConfig
from tests.made import picture_folder, pipeline
from tests.model.helpers import random_model, small_config


def base_folder(root: Path) -> Path:
    """Labels land, nebula, planet; released positions, to see that they are kept."""
    model = random_model(small_config(patch_size=2, num_classes=3, position_order="column_major"))
    pipeline(model).save_pretrained(root / "base")
    return root / "base"


def data_for(base: Path | str, root: Path, labels: tuple[str, ...] = ("nebula", "dog")) -> Path:
    images = picture_folder(root / "images", labels=labels)
    options = PrepareOptions(
        images=images, out=root / "data", autoencoder=str(base), multiple_of_cells=2, workers=2, device="cpu"
    )
    prepare(options)
    return root / "data"


def config_of(base: Path, data: Path, lora_rank: int = 0, **changes) -> TrainConfig:
    """The recipe's, shortened."""
    config = finetune(DataSummary.of(LatentDataset.open(data)), BaseModel.read(str(base)), lora_rank)
    short = {
        "steps": 6,
        "held_out": HeldOutConfig(share=0.2, every=2, draws=2, keep_best=True),
        "pictures": PicturesConfig(every=3, sizes=("32x32",), labels=2),
        "checkpoint_every": 2,
        "log_every": 1,
    }
    return replace(config, **{**short, **changes})
