"""What the page's fields ask for, and what it says; without a browser."""

from pathlib import Path

import pytest

from anyres.cli import main
from anyres.demo import page as page_module
from anyres.demo.command import serving
from anyres.demo.options import DemoOptions
from anyres.demo.page import MOST_TOKENS, Page, words
from anyres.errors import AnyResError, BackendError, ConfigError
from anyres.grid import Size
from anyres.sample.writer import read_recipe
from tests.made import picture, pipeline

pytest.importorskip("gradio")


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(pipeline(), "made")


FIELDS = {
    "label": "planet",
    "width": 64,
    "height": 32,
    "also": [],
    "seed": 5,
    "steps": 3,
    "guidance": 2,
    "picture": None,
    "strength": 0.6,
    "place": "extend",
}


def asked(page: Page, **changed):
    return page._asked(*{**FIELDS, **changed}.values())


def test_fields_become_requests(page: Page) -> None:
    requests, settings = asked(page, also=["32x64", "64x32"], guidance=3.5)
    assert [(r.label, r.size, r.seed) for r in requests] == [(2, Size(32, 64), 5), (2, Size(64, 32), 5)]
    assert (settings.steps, settings.guidance, settings.guidance_high) == (3, 3.5, page._pipe.defaults.guidance_high)


def test_a_picture_to_start_from_goes_to_every_shape(page: Page, tmp_path: Path) -> None:
    picture(Size(32, 32), 1).save(tmp_path / "mine.png")
    requests, _ = asked(page, also=["32x64"], picture=str(tmp_path / "mine.png"), strength=0.5)
    for request in requests:
        assert request.canvas.recipe["picture"] == "mine.png"
        assert (request.canvas.strength, request.canvas.shown.sum()) == (0.5, 32 * 32)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"width": 65}, "multiples of 16 px"),
        ({"width": None}, "no width or height"),
        ({"height": 0}, "at least 1"),
        ({"height": -16}, "at least 1"),
        ({"width": 16 * MOST_TOKENS}, "at most 4,194,304 px together"),
        ({"picture": "/nowhere/mine.png"}, "No such file"),
    ],
)
def test_what_cannot_be_made_is_refused(page: Page, changed: dict, message: str) -> None:
    with pytest.raises(AnyResError, match=message):
        asked(page, **changed)


def test_a_click_shows_previews_then_files_with_their_recipes(page: Page, tmp_path: Path) -> None:
    kept = Page(page._pipe, "made", tmp_path)
    told = list(kept._make(*{**FIELDS, "also": ["32x64"]}.values()))
    assert [text for _, text, _, _ in told[:-1]] == [
        f"Step {i} of 3. The pictures are guesses of what they become." for i in (1, 2, 3)
    ]
    assert told[-1][1].startswith("Made 2 pictures in ")
    names = ["planet-64x32-seed5.png", "planet-32x64-seed5.png"]
    assert [Path(path).name for path, _ in told[-1][0]] == names
    assert [read_recipe(tmp_path / name) for name in names] == told[-1][3]
    assert {path.name for path in tmp_path.iterdir()} == {*names, "contact-sheet.png"}


def test_errors_are_words_and_never_markup() -> None:
    error = ConfigError("got <b>", wanted="a & b", fix="<script>")
    assert words(error) == "Got &lt;b&gt;<br>Wanted: a &amp; b<br>To fix: &lt;script&gt;"


def test_the_queue_is_bounded_and_one_click_is_worked_on_at_a_time(page: Page) -> None:
    blocks = page.blocks()
    assert blocks._queue.max_size == page_module.WAITING
    making = [fn for fn in blocks.fns.values() if fn.fn == page._make]
    assert len(making) == 2
    assert {(fn.concurrency_id, fn.concurrency_limit, fn.queue) for fn in making} == {("make", 1, True)}


def test_shapes_are_of_one_area_and_can_be_made(page: Page) -> None:
    shapes = page._shapes()
    assert shapes["square"] == Size(256, 256)
    assert len(set(shapes.values())) == len(shapes)
    for size in shapes.values():
        size.grid(page._pipe.px_per_token)
        assert abs(size.area / 256**2 - 1) < 0.1


def test_the_page_is_for_this_machine_alone_unless_told_otherwise() -> None:
    assert DemoOptions().host == "127.0.0.1"
    with serving(pipeline(), DemoOptions(browser=False)) as url:
        assert url.startswith("http://127.0.0.1:")
        port = int(url.rstrip("/").rpartition(":")[2])
        with (
            pytest.raises(ConfigError, match=f"cannot listen at 127.0.0.1, port {port}"),
            serving(pipeline(), DemoOptions(browser=False, port=port)),
        ):
            pass


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(page_module.importlib, "import_module", missing)
    assert main(["demo", "mini", "--no-browser"]) == 2
    assert "pip install 'anyres[demo]'" in capsys.readouterr().err
    with pytest.raises(BackendError):
        page_module.gradio()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mni"], "did you mean 'mini'"),
        (["mini", "--port", "0"], "port 0"),
        (["mini", "--device", "x"], "one of auto"),
    ],
)
def test_bad_input_leaves_with_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--no-browser", *arguments]) == 2
    assert message in capsys.readouterr().err
