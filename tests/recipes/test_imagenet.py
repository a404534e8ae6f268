"""The published recipes, and the plan of a run."""

from dataclasses import replace
from pathlib import Path

import pytest

from anyres.cli import main
from anyres.config import from_dict
from anyres.errors import ConfigError
from anyres.files import read_json
from anyres.latents.format import LatentDataset
from anyres.model.config import PRESETS, PUBLISHED_PROJECTIONS, NiTConfig
from anyres.recipes.builtin import RECIPES
from anyres.recipes.imagenet import BUDGETS, IMAGENET
from anyres.recipes.measured import MEASURED, Measured, fitting
from anyres.recipes.planning import Resources, activation_bytes, plan
from anyres.recipes.summary import DataSummary, assumed_summary
from anyres.train.config import TrainConfig
from tests.made import MeanColours, dataset

XL = "imagenet_xl"


def planned(name: str, resources: Resources, *records: Measured, **changes) -> dict[str, str]:
    """The plan's lines by their name; those without one belong to the line before."""
    summary = assumed_summary(name)
    text = plan(name, replace(RECIPES[name](summary), **changes), summary, resources, records)
    found: dict[str, str] = {}
    last = ""
    for line in text.splitlines():
        last = line.split(maxsplit=1)[0] if not line.startswith(" ") else last
        found[last] = found.get(last, "") + line.removeprefix(last)
    return found


@pytest.mark.parametrize("size", BUDGETS)
def test_a_published_recipe_is_the_preset_at_131072_tokens_a_step(size: str) -> None:
    config = IMAGENET[f"imagenet_{size}"](assumed_summary(f"imagenet_{size}"))
    assert config.packs_per_step * config.packing.budget == 131_072
    assert config.packing.algorithm == "lpfhp"
    assert config.model.projection == PUBLISHED_PROJECTIONS[size]
    bare = replace(config.model, projection=None)
    assert bare == NiTConfig.preset(size, num_classes=1000)
    assert config.teacher is not None
    assert config.teacher.weight == 1
    assert (config.optimizer.learning_rate, config.optimizer.warmup_steps, config.ema.decay) == (1e-4, 0, 0.9999)
    assert (config.time.mean, config.label_dropout, config.direction_weight) == (0, 0.1, 1)


def test_one_for_each_published_size() -> None:
    assert {f"imagenet_{size}" for size in PRESETS if size != "mini"} == set(IMAGENET) < set(RECIPES)


def test_another_number_of_channels_or_labels_and_no_teacher() -> None:
    mine = replace(assumed_summary(XL), num_classes=7, channels=16, px_per_cell=8, teacher=None)
    config = RECIPES[XL](mine)
    assert (config.model.num_classes, config.model.channels, config.model.patch_size) == (7, 16, 4)
    assert (config.teacher, config.model.projection) == (None, None)


def test_a_published_recipe_trains_small_on_the_three_variants(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = dataset(
        tmp_path,
        teacher=MeanColours(),
        multiple_of_cells=4,
        variants=("native", "square-256"),
        upscale=True,
        teacher_dtype="int8",
    )
    command = ["train", "imagenet_s", "--data", data, "--out", tmp_path / "run", "--device", "cpu", "--steps", "1"]
    command += ["--model.hidden-size", "48", "--model.num-heads", "2", "--model.depth", "2"]
    command += ["--model.projection.after-block", "1", "--model.projection.hidden", "8", "--packing.budget", "256"]
    assert main([*map(str, command)]) == 0
    config = from_dict(TrainConfig, read_json(tmp_path / "run" / "config.json"))
    assert (config.model.patch_size, config.packs_per_step) == (4, 2)
    capsys.readouterr()
    assert main(["train", "imagenet_s", "--data", str(data), "--plan"]) == 0
    said = capsys.readouterr().out
    assert "not as published: without square-512" in said
    rows = LatentDataset.open(data)
    assert (
        f"{len(rows)} rows (native, square-256) of {rows.lengths(4).sum():,} tokens: about 2,000,000.0 epochs" in said
    )


SPEED = Measured(network="xl", device="a GPU", tokens_per_second=50_000, peak_gib=40.0, budget=16_384, source="a file")


def test_time_and_cost_follow_from_the_speed() -> None:
    """131,072 tokens a million times, at 50,000 a second: 2,621,440 seconds, or 728.2 hours."""
    lines = planned(XL, Resources(price_per_gpu_hour=2.0), SPEED)
    assert "50,000 tokens/s on one a GPU" in lines["speed"]
    assert "a file" in lines["speed"]
    assert "30.3 days on one GPU" in lines["time"]
    assert "1,456 for 728.2 GPU-hours at 2 each" in lines["cost"]
    assert "40.0 GiB" in lines["memory"]
    eight = planned(XL, Resources(gpus=8, price_per_gpu_hour=2.0), SPEED)
    assert "3.8 days on 8 GPUs, were they 8 times as fast" in eight["time"]
    assert eight["cost"] == lines["cost"]
    assert "9.1 hours on one GPU" in planned(XL, Resources(), SPEED, steps=12_500)["time"]


def test_a_time_limit_says_how_often_it_is_started_and_a_cpu_has_no_gpus_speed() -> None:
    assert "starts" not in planned(XL, Resources(), SPEED)
    starts = planned(XL, Resources(time_limit=24 * 3600), SPEED)["starts"]  # of 728.2 hours
    assert starts.strip() == "31 of 24.0 hours, if none lost time"
    assert "not known" in planned(XL, Resources(device="cpu"), SPEED)["speed"]
    assert "50,000" in planned(XL, Resources(device="cuda:1"), SPEED)["speed"]


def test_a_given_speed_comes_before_the_recorded() -> None:
    lines = planned(XL, Resources(tokens_per_second=100_000), SPEED)
    assert "15.2 days" in lines["time"]
    assert "as given" in lines["speed"]
    assert "cost" not in lines


def test_what_was_not_measured_is_said_and_not_invented() -> None:
    lines = planned("imagenet_l", Resources(price_per_gpu_hour=2.0), SPEED)
    for name in ("speed", "time", "cost"):
        assert "not known" in lines[name]
        assert not any(character.isdigit() for character in lines[name])
    assert "measured, all included" not in lines["memory"]


def test_memory_and_disk_follow_from_the_parameters() -> None:
    """XL has 674.9M and a projector of 9.2M: 684.1M · 20 bytes of state, 16 of them in a checkpoint."""
    lines = planned(XL, Resources())
    assert "674.9M parameters, and 9.2M of the projector" in lines["recipe"]
    assert "12.7 GiB" in lines["memory"]
    assert "10.2 GiB a checkpoint, 3 of them" in lines["disk"]


def test_activations_are_counted_by_block() -> None:
    """XL: 16,384 tokens of 1,152 · 2 bytes, 20 tensors a block: 0.703 GiB, 0.035 where the input alone is kept."""
    for recomputed, wanted in ((0, 28 * 20), (10, 10 + 18 * 20), (27, 27 + 20), (28, 28 + 20)):
        found = activation_bytes(replace(RECIPES[XL](assumed_summary(XL)), recomputed_blocks=recomputed))
        assert found == 16_384 * 1_152 * 2 * wanted
    assert "19.7 GiB for activations" in planned(XL, Resources())["memory"]
    lines = planned(XL, Resources(), SPEED, recomputed_blocks=27)
    assert "1.7 GiB for activations on a GPU, counted: 16,384 tokens, the first 27 of 28" in lines["memory"]
    assert "40.0 GiB" not in lines["memory"]  # which was measured of a run that keeps all
    assert "not known" in lines["time"]
    assert "30.3 days" in planned(XL, Resources(), replace(SPEED, recomputed_blocks=27), recomputed_blocks=27)["time"]


def test_a_measurement_fits_a_network_whatever_its_labels() -> None:
    mini = NiTConfig.preset("mini", num_classes=5, channels=4, patch_size=2)
    assert fitting(mini)
    assert set(fitting(mini)) <= set(MEASURED)
    assert not fitting(replace(mini, depth=9))
    for record in MEASURED:
        assert record in fitting(NiTConfig.preset(record.network, num_classes=1))


def test_a_plan_for_an_unknown_recipe_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "imagenet_zz", "--plan"]) == 2
    assert "did you mean 'imagenet_s'" in capsys.readouterr().err


def test_gpus_that_do_not_divide_the_step_are_refused() -> None:
    with pytest.raises(ConfigError, match="packs_per_step = 8 cannot be shared equally among 3 processes"):
        planned(XL, Resources(gpus=3))
    with pytest.raises(ConfigError, match="price_per_gpu_hour = 0"):
        Resources(price_per_gpu_hour=0)


def test_the_command_plans_without_data_and_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    command = ["train", XL, "--plan", "--out", str(out), "--tokens-per-second", "100000", "--steps", "1000"]
    assert main([*command, "--no-repa"]) == 0
    assert "teacher  none" in capsys.readouterr().out
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "teacher  radio: 1280 channels" in said
    assert "none given: as if of 1,000 labels" in said
    assert "1,000 steps" in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "no --data was given"),
        (["--data", "DATA"], "no --out was given"),
        (["--data", "DATA", "--out", "RUN", "--gpus", "2"], "without --plan"),
        (["--plan", "--gpus", "0"], "gpus = 0"),
        (["--plan", "--device", "gpu"], "got device 'gpu'"),
        (["--plan", "--time-limit", "soon"], "got a time limit of 'soon'"),
    ],
)
def test_what_is_missing_is_named(
    options: list[str], said: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"DATA": str(data), "RUN": str(tmp_path / "run")}
    assert main(["train", "tutorial", *(places.get(option, option) for option in options)]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert "to fix: " in message
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("planned"), multiple_of_cells=2)


def test_a_dataset_is_summarised_with_its_variants_and_its_teacher(data: Path, tmp_path: Path) -> None:
    opened = LatentDataset.open(data)
    found = DataSummary.of(opened)
    assert (found.rows, found.cells, found.variants) == (24, int(opened.cells.prod(axis=1).sum()), ("native",))
    assert found.teacher is None
    taught = LatentDataset.open(dataset(tmp_path, teacher=MeanColours(), multiple_of_cells=2))
    assert DataSummary.of(taught).teacher == taught.info.teacher
