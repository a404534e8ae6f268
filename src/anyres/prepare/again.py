"""The pictures that a dataset was encoded from, made again from its images."""

from pathlib import Path

import numpy as np

from ..errors import DataError
from ..latents.format import LatentDataset
from ..latents.writer import settings_of
from ..shapes import UInt8
from .found import SourceImage
from .images import RejectedImageError, decode_bytes
from .options import PrepareOptions
from .sources import find_source
from .variants import version


class Pictures:
    """Gives the picture of any row, as it was encoded; safe to use from several threads.

    Args:
        dataset: encoded by `anyres prepare`.
        images: where its images are, as `anyres prepare` was told.

    Raises:
        DataError: the dataset was not made of images, or images of it are not there.
        ConfigError: see `find_source`.
    """

    def __init__(self, dataset: LatentDataset, images: str) -> None:
        settings = settings_of(dataset.path)
        if settings.get("from", "images") != "images" or (not settings and dataset.reshaped.any()):
            raise DataError(
                f"{dataset.path} does not say how its pictures are made of images",
                wanted="a dataset that anyres prepare made of images, with its folder .parts",
                fix="prepare the images again, or with --teacher, whose features are then stored",
            )
        crop, canvas, rescale = (tuple(settings.get(name, ())) for name in ("crop", "canvas", "rescale"))
        self._options = PrepareOptions(
            images=Path(images),
            out=dataset.path,
            max_side=dataset.info.max_side,
            multiple_of_cells=dataset.info.multiple_of_cells,
            upscale=True,  # what was made small is no row
            crop=crop,
            canvas=canvas,
            rescale=rescale,
            reshaped=settings["reshaped"] if crop or canvas or rescale else None,
        )
        self._multiple = dataset.info.autoencoder.px_per_cell * dataset.info.multiple_of_cells
        self._dataset, source = dataset, find_source(self._options)
        wanted = set(dataset.sources)
        self._found: dict[str, SourceImage] = {image.source: image for image in source.images if image.source in wanted}
        missing = sorted(wanted - self._found.keys())
        if missing:
            raise DataError(
                f"{len(missing)} of the {len(wanted)} images of {dataset.path} are not in {source.name}, such as "
                f"{missing[0]}",
                wanted="the images that it was prepared from",
                fix="name the place that anyres prepare was given, or restore them",
            )

    def of(self, row: int, *, flipped: bool = False) -> UInt8[np.ndarray, "height width 3"]:
        """The picture of a row, mirrored or not.

        Raises:
            DataError: the image cannot be read, or is not the one that was encoded.
        """
        name, data = self._dataset.sources[row], self._dataset
        try:
            image = decode_bytes(self._found[name].read())
        except RejectedImageError as error:
            raise DataError(
                f"the image {name} of {data.path} cannot be read: {error}",
                wanted="the image that was encoded",
                fix="restore it, and run the same command again",
            ) from error
        if image.content_hash != data.content_hashes[row]:
            raise DataError(
                f"the image {name} has changed since {data.path} was prepared",
                wanted="the image that was encoded",
                fix="restore it, or prepare the images again into a new folder",
            )
        label = data.info.labels[int(data.labels[row])]
        made = version(self._options, label, image, data.variants[row], self._multiple)
        height, width = data.image_px[row].tolist()
        if made is None or (made.height, made.width) != (height, width):
            raise DataError(
                f"{name} gives no picture {data.variants[row]} of {width}x{height} px any more",
                wanted="the version of anyres that made the dataset",
                fix="prepare the images again into a new folder",
            )
        pixels = np.asarray(made)
        return pixels[:, ::-1] if flipped else pixels
