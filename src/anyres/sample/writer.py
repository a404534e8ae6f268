"""PNG files with their recipe in them, and contact sheets."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin, UnidentifiedImageError

from .. import __version__
from ..config import to_dict
from ..errors import DataError
from ..files import make_folder, replacing
from .pipeline import Pipeline
from .request import ImageRequest, SamplingSettings

RECIPE_KEY = "anyres"
SHEET = "contact-sheet.png"
MARGIN, CAPTION, SHEET_WIDTH = 8, 16, 1400  # px
GROUND = "#e8e8e8"  # of a sheet, so that the shape of a picture on white is seen
SHEET_PX = 50_000_000  # most px of a sheet's images


@dataclass(frozen=True, kw_only=True)
class SavedImages:
    """What was written.

    Attributes:
        paths: the images, in order.
        sheet: the contact sheet, if one was asked for.
    """

    paths: tuple[Path, ...]
    sheet: Path | None

    def __str__(self) -> str:
        lines = [str(path) for path in self.paths]
        return "\n".join([*lines, f"all together: {self.sheet}"] if self.sheet else lines)


def recipe_of(
    pipe: Pipeline, settings: SamplingSettings, request: ImageRequest, *, model: str, weaker: str | None = None
) -> dict[str, Any]:
    """All that is needed to make an image again.

    Args:
        pipe: what makes it.
        settings: how.
        request: which image.
        model: the name that the pipeline was loaded by.
        weaker: the name of the network in the null branch's place.
    """
    return {
        "model": model,
        "name": pipe.name,
        "label": pipe.labels.name(request.label),
        "label_number": request.label,
        "size": str(request.size),
        "seed": request.seed,
        "start": dict(request.canvas.recipe) if request.canvas else None,
        **to_dict(settings),
        "weaker": weaker,
        "anyres": __version__,
        "torch": torch.__version__,
        "device": pipe.model.device.type,
        "dtype": pipe.model.precision,
    }


def file_name(recipe: Mapping[str, Any]) -> str:
    """LABEL-WIDTHxHEIGHT-seedN.png."""
    return f"{_slug(str(recipe['label']))}-{recipe['size']}-seed{recipe['seed']}.png"


def save_images(
    images: Sequence[Image.Image],
    recipes: Sequence[Mapping[str, Any]],
    folder: Path,
    *,
    contact_sheet: bool = True,
    overwrite: bool = False,
) -> SavedImages:
    """Write images as PNG, named LABEL-WIDTHxHEIGHT-seedN.png, each with its recipe in its metadata.

    Args:
        images: RGB.
        recipes: all that is needed to make each again; `label`, `size` and `seed` name the file.
        folder: made if missing.
        contact_sheet: also write one picture of all.
        overwrite: replace files of the same name; otherwise a taken name gets a number.

    Raises:
        DataError: the folder cannot be written to, or the disk is full.
    """
    make_folder(folder)
    paths = free_paths(recipes, folder, overwrite=overwrite)
    write_images(images, recipes, paths)
    sheet = None
    if contact_sheet and len(images) > 1:
        sheet = write_sheet(images, recipes, folder, overwrite=overwrite)
    return SavedImages(paths=paths, sheet=sheet)


def free_paths(recipes: Sequence[Mapping[str, Any]], folder: Path, *, overwrite: bool) -> tuple[Path, ...]:
    """Where `save_images` writes images; none of them is there yet, unless they may be overwritten."""
    paths: list[Path] = []
    for recipe in recipes:
        paths.append(_free(folder, Path(file_name(recipe)).stem, overwrite=overwrite, taken=paths))
    return tuple(paths)


def write_images(images: Sequence[Image.Image], recipes: Sequence[Mapping[str, Any]], paths: Sequence[Path]) -> None:
    """Write images as PNG, each with its recipe in its metadata.

    Raises:
        DataError: one cannot be written, or the disk is full.
    """
    for image, recipe, path in zip(images, recipes, paths, strict=True):
        _write(image, path, recipe)


def write_sheet(
    images: Sequence[Image.Image], recipes: Sequence[Mapping[str, Any]], folder: Path, *, overwrite: bool
) -> Path:
    """Write the contact sheet of images with these recipes into a folder; says where it is."""
    captions = [f"{recipe['label']} {recipe['size']}" for recipe in recipes]
    return write_contact_sheet(images, captions, _free(folder, Path(SHEET).stem, overwrite=overwrite, taken=[]))


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The recipe in an image's metadata.

    Raises:
        DataError: the file is missing, or was not made by this program.
    """
    try:
        with Image.open(path) as image:
            text = image.info.get(RECIPE_KEY)
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"{path} cannot be read: {error}", wanted="a PNG file", fix="check the path") from None
    if text is None:
        raise DataError(
            f"{path} holds no recipe", wanted="an image made by anyres", fix="use the file as it was written"
        )
    return json.loads(text)


def write_contact_sheet(images: Sequence[Image.Image], captions: Sequence[str], path: Path) -> Path:
    """One picture of all images, in rows, each in its own shape with a caption below.

    Images keep their px, unless the sheet would be larger than can be looked at: then all shrink by one factor.

    Args:
        images: RGB, of any sizes; at least one.
        captions: one each; cut to the image's width.
        path: of the PNG file.

    Returns:
        The path.

    Raises:
        DataError: the file cannot be written, or the disk is full.
    """
    factor = min(1.0, math.sqrt(SHEET_PX / sum(image.width * image.height for image in images)))
    if factor < 1:
        shrunk = [(max(1, round(image.width * factor)), max(1, round(image.height * factor))) for image in images]
        images = [image.resize(size, Image.Resampling.BICUBIC) for image, size in zip(images, shrunk, strict=True)]
    rows = _rows([image.width for image in images])
    heights = [max(images[i].height for i in row) + CAPTION + MARGIN for row in rows]
    widest = max(sum(images[i].width + MARGIN for i in row) for row in rows)
    sheet = Image.new("RGB", (widest + MARGIN, sum(heights) + MARGIN), GROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    top = MARGIN
    for row, height in zip(rows, heights, strict=True):
        left = MARGIN
        for i in row:
            sheet.paste(images[i], (left, top))
            caption = captions[i]
            while caption and draw.textlength(caption, font=font) > images[i].width:
                caption = caption[:-1]
            draw.text((left, top + images[i].height + 2), caption, fill="black", font=font)
            left += images[i].width + MARGIN
        top += height
    with replacing(path) as staging:
        sheet.save(staging, format="PNG")
    return path


def _rows(widths: Sequence[int]) -> list[list[int]]:
    """Which images stand in which row, in order: as many as `SHEET_WIDTH` holds."""
    rows: list[list[int]] = []
    used = 0
    for i, width in enumerate(widths):
        if not rows or used + width + MARGIN > SHEET_WIDTH:
            rows.append([])
            used = 0
        rows[-1].append(i)
        used += width + MARGIN
    return rows


def _write(image: Image.Image, path: Path, recipe: Mapping[str, Any]) -> None:
    metadata = PngImagePlugin.PngInfo()
    metadata.add_itxt(RECIPE_KEY, json.dumps(dict(recipe), ensure_ascii=False))
    metadata.add_itxt("Description", f"{recipe['label']}, made by anyres with {recipe.get('model', 'a model')}")
    with replacing(path) as staging:
        image.save(staging, format="PNG", pnginfo=metadata)


def _free(folder: Path, stem: str, *, overwrite: bool, taken: Sequence[Path]) -> Path:
    """The path of this name, or with the first free number behind it."""
    path, number = folder / f"{stem}.png", 1
    while path in taken or (path.exists() and not overwrite):
        number += 1
        path = folder / f"{stem}-{number}.png"
    return path


def _slug(label: str) -> str:
    """A label as a file name, of at most 60 characters: file systems allow 255 bytes."""
    return re.sub(r"[^\w.-]+", "-", label)[:60].strip("-.") or "image"
