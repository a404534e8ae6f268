"""Images in the making: what is told of them, and that nobody's are made on."""

import threading

import numpy as np
import pytest
import torch

from anyres import Start
from anyres.demo import making
from anyres.demo.making import Maker
from anyres.errors import NonFiniteError
from anyres.grid import Size
from anyres.sample import pipeline as pipeline_module
from anyres.sample.request import make_requests
from tests.made import picture
from tests.sample.helpers import small_pipeline

SIZES = ["64x40", "24x24", "40x64"]


@pytest.fixture(autouse=True)
def _always_a_preview(monkeypatch):
    monkeypatch.setattr(making, "LEAST_WAIT", 0.0)
    monkeypatch.setattr(making, "SHARE", float("inf"))


def requests_for(pipe, sizes=SIZES, **more):
    return make_requests(1, sizes, 3, table=pipe.labels, px_per_token=pipe.px_per_token, **more)


def pixels(image):
    return np.asarray(image).astype(int)


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "making"]


def test_every_step_is_told_and_the_end_is_what_the_pipeline_makes():
    pipe = small_pipeline()
    told = list(Maker(pipe).make(requests_for(pipe), pipe.defaults))
    assert [(state.step, state.steps, state.done) for state in told[:-1]] == [(i, 4, False) for i in (1, 2, 3, 4)]
    assert (told[-1].step, told[-1].done) == (4, True)
    for ours, theirs in zip(told[-1].images, pipe(1, SIZES, seeds=3), strict=True):
        assert ours.tobytes() == theirs.tobytes()
    assert not threads()


def test_pictures_of_later_packs_come_later_and_in_their_place(monkeypatch):
    pipe = small_pipeline()
    monkeypatch.setitem(pipeline_module.BUDGET, "cpu", 40)
    told = list(Maker(pipe).make(requests_for(pipe), pipe.defaults))
    assert [(state.step, state.steps) for state in told[:-1]] == [(i, 12) for i in range(1, 13)]
    assert [image is None for image in told[2].images] == [False, True, True]
    assert [image is None for image in told[-2].images] == [False] * 3
    for state in told[1:]:
        shown = [(image.width, image.height) for image in state.images if image is not None]
        assert shown == [(64, 40), (24, 24), (40, 64)][: len(shown)]


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_preview_is_what_the_last_velocity_leads_to(solver):
    """Of a picture that is not let go yet, that is the picture, however much noise the state has."""
    pipe = small_pipeline()
    image = picture(Size(40, 64), 1)
    requests = requests_for(pipe, None, start=Start(image, strength=0.25))
    settings = pipe.defaults.changed(steps=8, solver=solver)
    told = list(Maker(pipe).make(requests, settings))
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    (known,) = pipe.decode([pipe.autoencoder.encode(tensor)[0]])
    assert told[0].images == (None,)
    for state in told[1:6]:
        assert np.abs(pixels(state.images[0]) - pixels(known)).max() <= 1
    assert np.abs(pixels(told[-1].images[0]) - pixels(known)).max() > 5


def test_the_sde_shows_its_state():
    pipe = small_pipeline()
    requests, states = requests_for(pipe, ["24x24"]), []
    settings = pipe.defaults.changed(solver="sde")
    pipe.latents(requests, settings, on_step=lambda info: states.append(info.latents()))
    told = list(Maker(pipe).make(requests, settings))
    for state, latents in zip(told[:-1], states, strict=True):
        assert state.images[0].tobytes() == pipe.decode(latents)[0].tobytes()


def test_previews_take_their_share_of_the_time_only(monkeypatch):
    monkeypatch.setattr(making, "SHARE", 1e-9)
    pipe = small_pipeline()
    told = list(Maker(pipe).make(requests_for(pipe), pipe.defaults.changed(steps=10)))
    assert [state.fresh for state in told] == [False, True, *[False] * 8, True]


@pytest.mark.parametrize("end", ["iterator", "maker"])
def test_images_that_nobody_waits_for_are_not_made(end):
    pipe = small_pipeline()
    asked, go_on = [], threading.Event()

    def slowly(*_):
        asked.append(1)
        if len(asked) > 3:
            go_on.wait(30)

    pipe.model.register_forward_pre_hook(slowly)
    maker = Maker(pipe)
    images = maker.make(requests_for(pipe), pipe.defaults.changed(steps=50, guidance=1.0))
    next(images)
    (thread,) = threads()
    if end == "iterator":
        images.close()
        go_on.set()
    else:
        threading.Timer(0.2, go_on.set).start()
        maker.close()
    thread.join(30)
    assert not threads()
    assert len(asked) < 10


def test_errors_reach_who_waits():
    pipe = small_pipeline()
    with torch.no_grad():
        pipe.model.conditioner.labels.weight[1] = torch.nan
    with pytest.raises(NonFiniteError, match="'bridge' at 64x40"):
        list(Maker(pipe).make(requests_for(pipe), pipe.defaults))
    assert not threads()
