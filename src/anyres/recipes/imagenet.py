"""The published runs on ImageNet-1k (arXiv 2506.03131), a recipe a size: imagenet_s … imagenet_xxl.

Paper: stated there. Released: the released configuration files and scripts. Ours: where neither says, or is wrong.
Their data: every image three times, `anyres prepare … --variants native square-256 square-512` with DC-AE f32c32
(paper), and the features of RADIO-v2.5-H, of RADIO-v2.5-B for S (released).
"""

from collections.abc import Callable
from functools import partial

from ..flow.time import TimeConfig
from ..model.config import PUBLISHED_PROJECTIONS, NiTConfig
from ..packing.plan import PackingConfig
from ..sample.request import SamplingSettings
from ..train.config import EmaConfig, HeldOutConfig, OptimizerConfig, PicturesConfig, TeacherConfig, TrainConfig
from .summary import DataSummary

VARIANTS = ("native", "square-256", "square-512")  # paper
TOKENS_A_STEP = 131_072  # paper, for XL: 8 packs of 16,384

# tokens of a pack: paper and released; one pack a GPU there
BUDGETS = {"s": 65_536, "b": 65_536, "l": 16_384, "xl": 16_384, "xxl": 8_192}


def _imagenet(size: str, data: DataSummary) -> TrainConfig:
    patch = data.patch_of(32)  # paper: one cell of DC-AE, which is 32 px
    tap = PUBLISHED_PROJECTIONS[size]  # released: encoder_depth, and the projector's width
    budget = data.fitting_budget(BUDGETS[size], patch)
    return TrainConfig(
        model=NiTConfig.preset(
            size,  # paper: depth, width, heads; released: the rank of XXL's modulation
            num_classes=data.num_classes,
            channels=data.channels,
            patch_size=patch,
            # ours: the released order of positions is wrong on images that are not square (docs/method.md)
            position_order="row_major",
            projection=data.projection(after_block=tap.after_block, hidden=tap.hidden),
        ),
        teacher=TeacherConfig(weight=1.0, stop_after=None) if data.teacher else None,  # released: proj_coeff
        # paper; there packed once, here anew every epoch
        packing=PackingConfig(budget=budget, algorithm="lpfhp"),
        # paper, for XL; ours for the other sizes. Any number of GPUs that divides it makes the same run
        packs_per_step=max(1, TOKENS_A_STEP // budget),
        steps=1_000_000,  # paper, for XL-1000K; ours for the other sizes, of which no length is stated
        path="linear",  # paper
        time=TimeConfig(mean=0.0, std=1.0),  # released: weighting lognormal
        direction_weight=1.0,  # released: always on, and not in its configuration
        label_dropout=0.1,  # released: class_dropout_prob
        flip=True,  # released: both flips are encoded, and one is drawn
        optimizer=OptimizerConfig(
            # released: 5e-5 × GPUs ÷ 4, which on XL's 8 is 1e-4; ours for the other sizes: the same tokens a step
            learning_rate=1e-4,
            warmup_steps=0,  # released: constant
            betas=(0.9, 0.95),  # released
            weight_decay=0.01,  # released
            eps=1e-6,  # released
            clip=1.0,  # released: max_grad_norm
        ),
        ema=EmaConfig(kind="constant", decay=0.9999),  # released
        held_out=HeldOutConfig(share=0.001, every=5000),  # ours: the released trainer holds none out
        pictures=PicturesConfig(every=10_000, sizes=data.three_shapes(patch)),  # ours
        sampling=SamplingSettings(guidance=2.25, guidance_high=0.7),  # paper, of 256² (there by SDE in 250 steps)
        checkpoint_every=2000,  # released
        keep_checkpoints=2,  # released: checkpoints_total_limit
        log_every=50,  # ours
    )


IMAGENET: dict[str, Callable[[DataSummary], TrainConfig]] = {
    f"imagenet_{size}": partial(_imagenet, size) for size in BUDGETS
}
