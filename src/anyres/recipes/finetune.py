"""The recipe `finetune`: a trained model on some hundreds of pictures, with settings that follow from how many.

docs/fine-tuning.md has the measurements behind the numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from ..errors import DataError
from ..latents.format import LatentDataset
from ..packing.plan import PackingConfig
from ..sample.request import SamplingSettings
from ..tables import aligned
from ..train.base import BaseModel
from ..train.config import HeldOutConfig, OptimizerConfig, PicturesConfig, TrainConfig
from .summary import DataSummary

NAME = "finetune"

IMAGES_A_STEP = 64  # a quarter of them is worse after as many steps, which are hardly faster on a GPU
VIEWS = 6400  # times an image is seen, for one image; of n images each is seen the root of n times less often
LEAST_STEPS = 200
RATE = 0.32  # over the network's width: Adam's steps must shrink as the sums that they add up in grow
LORA_RATE = 3  # times as high
MEASUREMENTS = 20  # of the held-out loss in a run
HELD_OUT = 20  # images: the loss of fewer says little
DRAWN = 256  # images with their times that a measurement should rest on, repeated where there are fewer


def finetune(data: DataSummary, base: BaseModel, lora_rank: int = 0) -> TrainConfig:
    """Minutes to an hour: a trained model goes on with 100 to 1,000 pictures, whose labels may be new.

    Args:
        data: the pictures.
        base: the model.
        lora_rank: of the changes that are trained; 0 trains all weights.
    """
    labels = data.labels or base.labels
    model = replace(base.network.config, num_classes=len(labels), projection=None)
    images = data.images or 300
    share = min(0.2, max(0.1, HELD_OUT / images))
    tokens = _tokens_an_image(data, model.patch_size)
    steps = max(LEAST_STEPS, 100 * round(VIEWS * math.sqrt(images) / IMAGES_A_STEP / 100))
    rate = RATE / model.hidden_size * (LORA_RATE if lora_rank else 1)
    every = max(1, steps // MEASUREMENTS)
    return TrainConfig(
        model=model,
        base=base.config(labels),
        lora_rank=lora_rank,
        packing=PackingConfig(budget=data.fitting_budget(round(IMAGES_A_STEP * tokens), model.patch_size)),
        steps=steps,
        path=base.description.path if base.description else "linear",
        time=data.noisy_times(),
        optimizer=OptimizerConfig(learning_rate=rate, warmup_steps=steps // 20),
        # its own, which suit its autoencoder and size
        sampling=base.description.defaults if base.description else SamplingSettings(),
        held_out=HeldOutConfig(share=share, every=every, draws=max(1, round(DRAWN / (share * images))), keep_best=True),
        pictures=PicturesConfig(every=4 * every, sizes=data.three_shapes(model.patch_size), labels=8),
        checkpoint_every=2 * every,
    )


def check_fits(base: BaseModel, dataset: LatentDataset) -> None:
    """See that the dataset's latents are what the base has learned.

    Raises:
        DataError: they are another autoencoder's, or scaled otherwise.
    """
    if base.description is None:
        return  # a network alone does not know; other channels are refused by the run
    own, theirs = base.description.autoencoder, dataset.info.autoencoder
    if not own.same_as(theirs) or base.description.scaling != dataset.scaling:
        raise DataError(
            f"the model {base.name} has learned latents of {own.describe()}, and {dataset.path} was prepared with "
            f"{theirs.describe()}",
            wanted="a dataset prepared with the model's own autoencoder",
            fix=f"anyres prepare IMAGES --autoencoder {base.name} --out DATA, into a new folder",
        )


def introduction(config: TrainConfig, data: DataSummary, base: BaseModel) -> str:
    """What a run will do, to be said before it starts."""
    weights = sum(parameter.numel() for parameter in base.network.parameters())
    known = [label for label in data.labels if label in base.labels]
    new = [label for label in data.labels if label not in base.labels]
    left = [label for label in base.labels if label not in data.labels]
    groups = (("known", known), ("new", new), ("no longer", left))
    labels = "; ".join(f"{what}: {_some(names)}" for what, names in groups if names)
    trained = f"changed by LoRA of rank {config.lora_rank}" if config.lora_rank else "all of them trained"
    tokens = _tokens_an_image(data, config.model.patch_size)
    of_step = min(config.packing.budget * config.packs_per_step / tokens, data.rows)
    epochs = config.steps * of_step / max(1, data.rows * (1 - config.held_out.share))
    return aligned(
        [
            ("from", f"{base.name}: {weights / 1e6:,.1f}M parameters, {trained}"),
            ("labels", labels),
            ("pictures", f"{data.images:,}, of which about {config.held_out.share * data.images:,.0f} are held out"),
            (
                "run",
                f"{config.steps:,} steps of about {of_step:,.0f} images at rate {config.optimizer.learning_rate:.2g}: "
                f"each is seen {epochs:,.0f} times",
            ),
        ]
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _tokens_an_image(data: DataSummary, patch: int) -> float:
    return max(1.0, data.cells / data.rows / patch**2) if data.rows else 256.0
