"""The same image files in each kind of source, all in the folder's order."""

import csv
import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from anyres.grid import Size
from anyres.prepare.options import PrepareOptions
from tests.made import picture, picture_folder

PER_TAR = 5


def odd_images(root: Path) -> Path:
    """Class folders of images in unusual modes, one that stands on its side, and two that are none."""
    picture_folder(root, ("cat", "dog"), each=3)
    deep = np.linspace(0, 65535, 24 * 40).reshape(24, 40).astype(np.uint16)
    Image.fromarray(deep).save(root / "cat" / "deep.png")
    picture(Size(24, 40), 5).convert("L").save(root / "cat" / "grey.png")
    picture(Size(64, 72), 6).quantize(16).save(root / "cat" / "palette.gif")
    clear = picture(Size(32, 24), 7).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    clear.save(root / "dog" / "clear.webp", lossless=True)
    turned = Image.Exif()
    turned[0x0112] = 6  # shown turned by a quarter
    picture(Size(24, 48), 8).save(root / "dog" / "turned.jpg", exif=turned)
    (root / "cat" / "00001x.png").write_bytes(b"")
    (root / "dog" / "zz.png").write_bytes(b"no image")
    return root


def files(folder: Path) -> list[Path]:
    """A folder's images, in its order."""
    return sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.parts)


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """A tar of these files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def tars(folder: Path, out: Path) -> dict:
    """Several tars, labels in .cls."""
    every = files(folder)
    for start in range(0, len(every), PER_TAR):
        members = {}
        for number, path in enumerate(every[start : start + PER_TAR], start):
            members[f"{number:04d}{path.suffix}"] = path.read_bytes()
            members[f"{number:04d}.cls"] = f"{path.parent.name}\n".encode()
        write_tar(out / f"{start // PER_TAR:03d}.tar", members)
    return {"images": out / "*.tar"}


def csv_table(folder: Path, out: Path) -> dict:
    """A CSV of absolute paths."""
    out.mkdir()
    with (out / "list.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["number", "path", "label"])
        table.writerows([number, path, path.parent.name] for number, path in enumerate(files(folder)))
    return {"images": out / "list.csv"}


def parquet_table(folder: Path, out: Path) -> dict:
    """A Parquet beside the folder, of relative paths and with other columns' names."""
    paths = files(folder)
    names = [path.relative_to(folder.parent).as_posix() for path in paths]
    table = pa.table({"file": names, "kind": pa.array([path.parent.name for path in paths]).dictionary_encode()})
    pq.write_table(table, folder.parent / "list.parquet")
    return {"images": folder.parent / "list.parquet", "image_column": "file", "label_column": "kind"}


def hub_rows(folder: Path) -> datasets.Dataset:
    """A data set with the files' bytes and class labels."""
    paths = files(folder)
    names = sorted({path.parent.name for path in paths})
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    columns = {
        "image": [{"bytes": path.read_bytes(), "path": path.name} for path in paths],
        "label": [names.index(path.parent.name) for path in paths],
    }
    return datasets.Dataset.from_dict(columns, features=features)


def hub_folder(folder: Path, out: Path) -> dict:
    """A folder of Parquet files, as a repository of the hub has."""
    out.mkdir()
    rows = hub_rows(folder)
    for part in range(2):
        rows.shard(2, part, contiguous=True).to_parquet(out / f"train-{part:05d}-of-00002.parquet")
    return {"images": Path(f"hf:{out}")}


def hub_stream(folder: Path, out: Path) -> dict:
    """The same, streamed."""
    return {**hub_folder(folder, out), "streaming": True}


def hub_saved(folder: Path, out: Path) -> dict:
    """What `save_to_disk` writes, of two splits."""
    rows = hub_rows(folder)
    datasets.DatasetDict({"train": rows.select([0]), "other": rows}).save_to_disk(str(out))
    return {"images": Path(f"hf:{out}"), "split": "other"}


SOURCES: dict[str, Callable[[Path, Path], dict]] = {
    made.__name__: made for made in (tars, csv_table, parquet_table, hub_folder, hub_stream, hub_saved)
}


def options(source: dict, out: Path, **others) -> PrepareOptions:
    """Small shards."""
    return PrepareOptions(out=out, device="cpu", **{"images_per_shard": 5, "workers": 2, **source, **others})
