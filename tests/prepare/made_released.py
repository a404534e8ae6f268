"""Latents in the published form, of made images: what `anyres prepare` gives, scaled and one file each."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from anyres.grid import Size
from anyres.latents.format import LatentDataset
from anyres.prepare.encode import prepare
from anyres.prepare.options import ImportOptions, PrepareOptions
from tests.made import picture, tiny_dc

NAMES = {"native": "native-resolution", "square-256": "fixed-256x256", "square-512": "fixed-512x512"}
CLASSES = ("n01", "n02", "n07")
NUMBERS = {"n01": 0, "n02": 3, "n07": 11}  # classes between them have no image here


@dataclass(frozen=True, kw_only=True)
class Released:
    """The files, and the dataset that they were made of."""

    root: Path
    prepared: LatentDataset
    lines: list[dict]

    @property
    def manifest(self) -> Path:
        return self.root / "merge_meta.jsonl"

    def latent(self, line: int) -> Path:
        """A line's file."""
        return self.root / self.lines[line]["type"] / self.lines[line]["latent_file"]

    def options(self, out: Path, **others) -> ImportOptions:
        """In small shards."""
        folders = {name.replace("-", "_"): self.root / kind for name, kind in NAMES.items() if name != "square-512"}
        settings = {
            "manifest": self.manifest,
            "autoencoder": str(self.root / "autoencoder"),
            "num_classes": 12,
            "latents_per_shard": 4,
            "workers": 2,
        }
        return ImportOptions(out=out, **{**settings, **folders, **others})


def released(root: Path) -> Released:
    """Four images of three classes, native and as squares of 256 px: eight latents."""
    sizes = (Size(40, 300), Size(256, 36), Size(44, 52), Size(32, 32))
    for seed, (size, label) in enumerate(zip(sizes, (*CLASSES, CLASSES[0]), strict=True)):
        (root / "images" / label).mkdir(parents=True, exist_ok=True)
        picture(size, seed).save(root / "images" / label / f"{seed}.png")
    torch.manual_seed(0)
    tiny_dc().save_pretrained(root / "autoencoder")
    prepare(
        PrepareOptions(
            images=root / "images",
            out=root / "prepared",
            autoencoder=str(root / "autoencoder"),
            variants=("native", "square-256"),
            upscale=True,
            device="cpu",
        )
    )
    data = LatentDataset.open(root / "prepared")
    lines = []
    for row in sorted(range(len(data)), key=lambda row: data.variants[row]):  # type after type, as the merged manifest
        lines.append(line(data, row))
        kind, label = NAMES[data.variants[row]], data.sources[row].split("/")[0]
        path = root / kind / lines[-1]["latent_file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = data.cells[row].tolist()
        maps = [data.read(row, flipped=flipped).T.reshape(-1, height, width) for flipped in (False, True)]
        save_file({"latent": torch.stack(maps), "label": torch.tensor(float(NUMBERS[label]))}, path)
    made = Released(root=root, prepared=data, lines=lines)
    made.manifest.write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    return made


def line(data: LatentDataset, row: int) -> dict:
    """A line of the manifest."""
    source = data.sources[row]
    pairs = {"ori": data.original_px[row], "latent": data.cells[row], "image": data.image_px[row]}
    sides = {f"{name}_{side}": int(pair[i]) for name, pair in pairs.items() for i, side in ((1, "w"), (0, "h"))}
    return {
        "image_file": source,
        "latent_file": source.replace(".png", ".safetensors"),
        **sides,
        "type": NAMES[data.variants[row]],
    }
