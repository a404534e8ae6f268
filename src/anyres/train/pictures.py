"""Samples during training, and the exported pipeline; both from the averaged weights."""

from pathlib import Path

from ..files import make_folder
from ..grid import Size
from ..latents.autoencoder import Autoencoder
from ..latents.format import LatentDataset
from ..model.lora import merged
from ..model.nit import NiT
from ..sample.folder import Adapter, save
from ..sample.pipeline import Pipeline
from ..sample.request import LabelTable
from ..sample.writer import write_contact_sheet
from .config import TrainConfig


def pipeline_of(
    model: NiT, dataset: LatentDataset, autoencoder: Autoencoder, config: TrainConfig, name: str
) -> Pipeline:
    """The pipeline of a model in training; its REPA projector, if any, is left out.

    Args:
        model: the network.
        dataset: what it is trained on: gives the labels and the longest side seen.
        autoencoder: the dataset's, on the model's device.
        config: the run's.
        name: how the pictures' metadata names the model.
    """
    seen = int(dataset.cells.max()) // config.model.patch_size
    return Pipeline(
        merged(model).without_projection(),
        autoencoder,
        LabelTable(dataset.info.labels),
        dataset.info.scaling,
        path=config.path,
        time_shift=config.time.shift,
        trained_side=max(seen, config.base.trained_side if config.base else 0),
        name=name,
        defaults=config.sampling,
    )


def export(pipe: Pipeline, average: NiT, config: TrainConfig, folder: Path) -> None:
    """Write a run's pipeline: its own weights, or what LoRA has changed of its base.

    Args:
        pipe: of the average, in the process that writes.
        average: the average of the weights.
        config: the run's.
        folder: where to.
    """
    adapter = None
    if config.base is not None and config.lora_rank:
        base = config.base
        adapter = Adapter(network=average, base=base.name, revision=base.revision, fingerprint=base.fingerprint)
    save(pipe, folder, adapter=adapter)


def draw_pictures(pipe: Pipeline, config: TrainConfig, folder: Path, step: int) -> Path:
    """Write a contact sheet of each size for each of the first labels, always from the same seeds."""
    settings = config.pictures
    px_per_token = pipe.px_per_token
    sizes = [Size.parse(size).rounded(px_per_token) for size in settings.sizes]
    labels = pipe.labels.names[: settings.labels]
    wanted = [(label, size) for label in labels for size in sizes]
    images = pipe(labels=[label for label, _ in wanted], sizes=[size for _, size in wanted])
    captions = [f"{label} {size}" for label, size in wanted]
    return write_contact_sheet(images, captions, make_folder(folder) / f"step-{step:07d}.png")
