"""Images from pictures on a GPU: encoded there, and the same alone and among others."""

import pytest
import torch

from anyres import Start
from anyres.grid import Size
from anyres.packing.pack import PackShape
from anyres.sample.request import SamplingSettings, make_requests
from tests.gpu.test_sampling_and_training import pipe_on_gpu
from tests.made import picture

pytestmark = pytest.mark.gpu

IMAGE = picture(Size(128, 192), 1)


@pytest.mark.parametrize("solver", ["euler", "heun", "sde"])
def test_an_image_from_a_picture_is_the_same_alone_and_among_others(solver: str) -> None:
    pipe = pipe_on_gpu("varlen", torch.bfloat16)
    pipe.autoencoder.to(torch.device("cuda"))
    start = [
        Start(IMAGE, strength=0.75),
        Start(IMAGE, place="extend"),
        None,
        Start(IMAGE, place=(64, 32), strength=0.5),
    ]
    sizes = ["192x128", "256x256", "128x64", "320x192"]
    requests = make_requests(1, sizes, None, table=pipe.labels, px_per_token=pipe.px_per_token, start=start)
    how, shape = SamplingSettings(steps=4, solver=solver, guidance=2.0), PackShape.fitting(8192, 8, 2048)
    together = pipe.latents(requests, how, shape=shape)
    for latent, request in zip(together, requests, strict=True):
        assert torch.equal(latent, pipe.latents([request], how, shape=shape)[0])


def test_what_stays_is_the_picture() -> None:
    pipe = pipe_on_gpu("varlen", torch.bfloat16)
    pipe.autoencoder.to(torch.device("cuda"))
    made = pipe(1, "256x128", start=Start(IMAGE, place=(64, 0)), steps=4)[0]
    px = pipe.px_per_token
    assert made.crop((64 + px, 0, 256, 128)).tobytes() == IMAGE.crop((px, 0, 192, 128)).tobytes()
