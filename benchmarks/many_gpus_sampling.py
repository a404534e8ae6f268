"""Sampling in several processes: rate, and whether images are those of one, bit for bit."""

import time
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from anyres.sample.request import ImageRequest, SamplingSettings, make_requests
from anyres.train.distributed import Team

from .many_gpus_plan import Plan
from .many_gpus_training import gathered, together
from .released import CLASSES
from .sampling import PX, SameStart, pipeline

SETTINGS = SamplingSettings(steps=20, guidance=2.25, guidance_low=0.0, guidance_high=0.7)
WARM_UP = 3  # packs, of few steps: kernels are compiled, passes recorded
FEW = SamplingSettings(steps=4, guidance=2.25, guidance_low=0.0, guidance_high=0.7)


def sampling(plan: Plan, team: Team) -> None:
    """Latents of the same images for every number of processes, in packs of one `PackShape`."""
    pipe = pipeline(plan.model, None, team.device, "auto")
    requests = images(plan, pipe)
    packs = pipe.packs(requests, plan.tokens // 2)
    for _ in range(WARM_UP):
        pipe.latents(packs[0], FEW, budget=plan.tokens // 2)
    together(team)
    start = time.perf_counter()
    numbers = team.ranks.share(len(packs))
    mine = [pipe.latents(packs[number], SETTINGS, budget=plan.tokens // 2) for number in numbers]
    if team.device.type == "cuda":
        torch.cuda.synchronize(team.device)
    seconds = time.perf_counter() - start
    made = {
        f"{number} {image}": latent.cpu().contiguous()
        for number, pack in zip(numbers, mine, strict=True)
        for image, latent in enumerate(pack)
    }
    row: dict[str, Any] = {"gpus": team.size, "images": len(requests), "packs": len(packs), "steps": SETTINGS.steps}
    row["pack"] = {"images": len(packs[0]), "tokens": sum(request.grid.tokens for request in packs[0])}
    row["seconds"] = max(gathered(team, seconds))
    row["images_a_second"] = len(requests) / row["seconds"]
    first = plan.folder / "samples.safetensors"
    if not first.exists():
        row |= {"compared": 0, "different": 0}
        if team.size == 1:
            save_file(made, first)
    else:
        theirs = load_file(first)
        different = [name for name, latent in made.items() if not torch.equal(latent, theirs[name])]
        furthest = max((float((latent - theirs[name]).abs().max()) for name, latent in made.items()), default=0.0)
        row["compared"], row["different"] = sum(gathered(team, len(made))), sum(gathered(team, len(different)))
        row["furthest"] = max(gathered(team, furthest))
    if team.leads:
        alone = (plan.found().get("sampling") or [row])[0]
        row["scaling"] = row["images_a_second"] / row["gpus"] / (alone["images_a_second"] / alone["gpus"])
        plan.add("sampling", row, said(row))


def images(plan: Plan, pipe: SameStart) -> tuple[ImageRequest, ...]:
    """As many tokens of each size in every pack, so that all packs have one shape."""
    one_each = make_requests(0, plan.sizes, None, table=pipe.labels, px_per_token=PX)
    share = plan.tokens // 2 // len(plan.sizes)
    of_pack = [
        size for size, request in zip(plan.sizes, one_each, strict=True) for _ in range(share // request.grid.tokens)
    ]
    sizes = of_pack * plan.sampled
    labels = [number % CLASSES for number in range(len(sizes))]
    return make_requests(labels, sizes, None, table=pipe.labels, px_per_token=PX)


def said(row: dict[str, Any]) -> str:
    """In words."""
    equal = f"{row['different']} of {row['compared']} images differ from one GPU's" if row["compared"] else "the first"
    rate = f"{row['images_a_second']:.1f} images/s of mixed sizes, {row['steps']} steps"
    return f"{row['gpus']} GPUs: {rate}, {row['scaling']:.1%}; {equal}"
