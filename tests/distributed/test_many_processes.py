"""Training in two processes is training in one, to rounding; what one of them meets, all of them heed."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from anyres.errors import AnyResError, ConfigError
from anyres.model import elementwise
from anyres.model.layers import Conditioner
from anyres.packing.draws import DrawsConfig
from anyres.packing.plan import PackingConfig
from anyres.train import checkpoint, distributed, loop, update
from anyres.train.config import HeldOutConfig, PicturesConfig, TrainConfig
from anyres.train.loop import train
from tests.distributed.processes import together
from tests.made import MeanColours, dataset
from tests.train.made_base import base_folder, config_of, data_for
from tests.train.test_run import last_state, settings
from tests.train.test_teacher import aligned


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("made"), multiple_of_cells=2)


def plan(data: Path, **changes: Any) -> TrainConfig:
    fields = {"packs_per_step": 4, "held_out": HeldOutConfig(share=0.2, every=3, packs=3)}
    return settings(data, **{**fields, "pictures": PicturesConfig(every=0), **changes})


def trained(config: TrainConfig, data: Path, out: Path) -> Any:
    """The report, or what was wrong."""
    try:
        return train(config, data, out, device="cpu")
    except AnyResError as error:
        return error


def same(one: Path, other: Path, tolerance: float = 1e-5) -> bool:
    """Whether two runs had the same losses and gradients and ended with the same weights, to rounding."""
    weights, expected = last_state(one), last_state(other)
    assert weights.keys() == expected.keys()
    # at zero output the gradient of the cosine is enormous, and its rounding too
    tolerances = dict.fromkeys(("step", "images", "tokens"), 0.0) | {"loss": tolerance, "gradient_norm": 10 * tolerance}
    tolerances["loss_flow_tokens_1_64"] = tolerance  # all images are of that size
    return all(
        figures(one, "train", name) == pytest.approx(figures(other, "train", name), rel=rel)
        for name, rel in tolerances.items()
    ) and all(torch.allclose(weights[name], expected[name], rtol=tolerance, atol=tolerance) for name in expected)


def figures(run: Path, kind: str, name: str) -> list[float]:
    return [record[name] for record in records(run, kind)]


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    """Those of a kind."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in record.items() if name != "kind"} for record in found if record["kind"] == kind
    ]


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run in one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    train(plan(data), data, out, device="cpu")
    return out


def test_processes_that_weigh_by_image_and_draw_unequally_train_as_one_does(data: Path, tmp_path: Path) -> None:
    draws = DrawsConfig(native=1.5, tokens_power=-0.5)
    config = plan(data, loss_tokens_power=0.0, packing=PackingConfig(budget=12, draws=draws))
    train(config, data, tmp_path / "alone", device="cpu")
    together(2, trained, config, data, tmp_path / "run")
    assert same(tmp_path / "run", tmp_path / "alone")


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_train_as_one_does(data: Path, alone: Path, tmp_path: Path, parallel: str) -> None:
    out = tmp_path / "run"
    config = plan(data, parallel=parallel, pictures=PicturesConfig(every=6, sizes=("32x32",), labels=1))
    reports = together(2, trained, config, data, out)
    assert same(out, alone)
    measured, expected = records(out, "held_out"), records(alone, "held_out")
    assert len(measured) == 2
    assert any(name.startswith("loss_flow_tokens_") for name in measured[0])
    assert all(one == pytest.approx(other, rel=1e-5) for one, other in zip(measured, expected, strict=True))
    assert [report.leads for report in reports] == [True, False]
    assert reports[0].progress == reports[1].progress
    meta = [json.loads((run / "checkpoints" / "step-6" / "meta.json").read_text()) for run in (out, alone)]
    assert meta[0] == meta[1]
    # written once, though all took part
    assert [path.name for path in (out / "samples").iterdir()] == ["step-0000006.png"]
    assert json.loads((out / "environment.json").read_text())[0]["processes"] == 2
    parts = {path.name[:4] for path in (out / "checkpoints" / "step-6").glob("*.distcp")}
    assert parts == {"__0_", "__1_"}  # each wrote its own
    assert not list(out.rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_the_update_in_two_passes_is_the_same_on_all_weights_and_on_parts(
    data: Path, alone: Path, tmp_path: Path, parallel: str
) -> None:
    pytest.importorskip("triton")
    together(2, trained_by_kernels, plan(data, parallel=parallel), data, tmp_path / "run")
    assert same(tmp_path / "run", alone)


@pytest.mark.slow
def test_copies_in_bfloat16_train_the_same_whole_and_in_parts(data: Path, tmp_path: Path) -> None:
    """One pack a process, so that the update writes a copy; both go on from a checkpoint, which has none."""
    pytest.importorskip("triton")
    for parallel in ("ddp", "fsdp"):
        for steps in (4, 6):
            config = plan(data, steps=steps, packs_per_step=2, precision="bfloat16", parallel=parallel)
            together(2, trained_by_kernels, config, data, tmp_path / parallel)
    assert same(tmp_path / "fsdp", tmp_path / "ddp")


def trained_by_kernels(config: TrainConfig, data: Path, out: Path) -> Any:
    from anyres.train.kernels import adamw

    adamw.BLOCK = adamw.CHUNK  # fewer turns for the interpreter, which takes its time for each
    update.pick_kernels = lambda *_: "triton"
    return trained(config, data, out)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_align_with_a_teacher_as_one_does(tmp_path: Path, parallel: str) -> None:
    """While the term counts, and after, when the projector has no gradient."""
    taught = dataset(tmp_path, teacher=MeanColours(), multiple_of_cells=2)
    config = aligned(plan(taught, parallel=parallel), weight=0.7, stop_after=4)
    train(config, taught, tmp_path / "alone", device="cpu")
    together(2, trained, config, taught, tmp_path / "run")
    assert same(tmp_path / "run", tmp_path / "alone")
    aligned_steps, expected = (
        [record["loss_alignment"] for record in records(tmp_path / name, "train") if "loss_alignment" in record]
        for name in ("run", "alone")
    )
    assert aligned_steps == pytest.approx(expected, rel=1e-5)
    assert len(expected) == 4


def sees(config: TrainConfig, data: Path, out: Path) -> Any:
    return train(config, data, out, device="cpu", teacher=MeanColours())


def test_two_processes_whose_teachers_see_the_images_train_as_one(tmp_path: Path) -> None:
    plain = dataset(tmp_path, multiple_of_cells=2)
    config = aligned(plan(plain), images=str(tmp_path / "images"), stop_after=4)
    sees(config, plain, tmp_path / "alone")
    together(2, sees, config, plain, tmp_path / "run")
    assert same(tmp_path / "run", tmp_path / "alone")


@pytest.mark.parametrize(("parallel", "recomputed"), [("ddp", 1), ("fsdp", 1), ("fsdp", 2)])
def test_two_processes_recompute_blocks(
    data: Path, alone: Path, tmp_path: Path, parallel: str, recomputed: int
) -> None:
    config = plan(data, parallel=parallel, recomputed_blocks=recomputed)
    together(2, trained, config, data, tmp_path / "run")
    assert same(tmp_path / "run", alone)


def test_blocks_are_gathered_one_by_one_where_they_are_large(data: Path, alone: Path, tmp_path: Path) -> None:
    config = plan(data, parallel="fsdp", recomputed_blocks=1)
    together(2, one_by_one, config, data, tmp_path / "run")
    assert same(tmp_path / "run", alone)


def one_by_one(config: TrainConfig, data: Path, out: Path) -> Any:
    distributed.TOGETHER = 1
    return trained(config, data, out)


def test_a_run_goes_on_in_another_number_of_processes(data: Path, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for steps, count, parallel in ((1, 1, "auto"), (2, 2, "ddp"), (3, 4, "fsdp"), (5, 2, "fsdp"), (6, 1, "fsdp")):
        together(count, trained, plan(data, steps=steps, parallel=parallel), data, out)
    assert same(out, alone)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_loss_that_is_not_finite_in_one_process_stops_all_before_the_step(
    data: Path, tmp_path: Path, parallel: str
) -> None:
    out = tmp_path / "run"
    errors = together(2, poisoned, plan(data, parallel=parallel, checkpoint_every=100), data, out)
    assert [type(error).__name__ for error in errors] == ["NonFiniteError"] * 2
    assert all("step 4: loss" in error.got for error in errors)
    assert [path.name for path in checkpoint.saved(out / "checkpoints")] == ["step-3"]


def poisoned(config: TrainConfig, data: Path, out: Path) -> Any:
    """The pack that only one process draws."""
    honest = loop.draw

    def draw(pack: Any, config: TrainConfig, *address: Any, **how: Any) -> Any:
        drawn = honest(pack, config, *address, **how)
        if address == (0, 3, 0):
            drawn.noise[0, 0] = float("inf")
        return drawn

    loop.draw = draw
    return trained(config, data, out)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_process_stops_all_after_the_same_step(
    data: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "run"
    config = plan(data, steps=10_000, held_out=HeldOutConfig(share=0.2, every=10_000))
    reports = together(2, signalled, config, data, out, number)
    assert [report.stopped for report in reports] == [number, number]
    assert reports[0].progress == reports[1].progress
    assert 3 <= reports[0].progress.step <= 5  # the step itself, and one until all know
    assert checkpoint.saved(out / "checkpoints")[-1].name == f"step-{reports[0].progress.step}"


def signalled(config: TrainConfig, data: Path, out: Path, number: int) -> Any:
    honest = loop.backward

    def backward(state: Any, *rest: Any, **options: Any) -> Any:
        if state.progress.step == 2 and not state.team.leads:
            os.kill(os.getpid(), number)
        return honest(state, *rest, **options)

    loop.backward = backward
    return trained(config, data, out)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_part_that_is_damaged_or_lost_sets_all_back_to_the_checkpoint_before(
    data: Path, alone: Path, tmp_path: Path, parallel: str
) -> None:
    out = tmp_path / "run"
    together(2, trained, plan(data, steps=4, parallel=parallel), data, out)
    part = next((out / "checkpoints" / "step-4").glob("__1_*.distcp"))
    if parallel == "ddp":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[:-3000])
    warnings = together(2, logged, plan(data, parallel=parallel), data, out)
    assert all("step-4 cannot be read" in text for text in warnings)
    assert same(out, alone)


def logged(config: TrainConfig, data: Path, out: Path) -> str:
    """What a run warns of."""
    warnings = []
    checkpoint.logger.warning = lambda text, *values: warnings.append(text % values)
    train(config, data, out, device="cpu")
    return "\n".join(warnings)


def test_packs_that_cannot_be_shared_equally_are_refused(data: Path, tmp_path: Path) -> None:
    errors = together(2, trained, plan(data, packs_per_step=3), data, tmp_path / "run")
    assert all(isinstance(error, ConfigError) for error in errors)
    assert "set --packs-per-step 4" in errors[0].fix
    assert not (tmp_path / "run").exists()


def test_rotary_tables_and_times_are_float32_where_weights_are_not(data: Path, tmp_path: Path) -> None:
    config = plan(data, steps=1, precision="bfloat16", parallel="fsdp")
    for seen in together(2, dtypes, config, data, tmp_path / "run"):
        assert seen == {"rotary": {torch.float32}, "time": {torch.float32}, "weight": {torch.bfloat16}}


def dtypes(config: TrainConfig, data: Path, out: Path) -> dict[str, set[torch.dtype]]:
    """Of what reaches attention, the conditioner, and the products in the blocks."""
    seen: dict[str, set[torch.dtype]] = {"rotary": set(), "time": set(), "weight": set()}
    rotate, condition, heads = elementwise.rotate, Conditioner.forward, elementwise.Elementwise.heads

    def watched_rotate(x: Any, tables: Any) -> Any:
        seen["rotary"] |= {tables.cos.dtype, tables.sin.dtype}
        return rotate(x, tables)

    def watched_condition(self: Any, t: Any, labels: Any) -> Any:
        seen["time"].add(t.dtype)
        return condition(self, t, labels)

    def watched_heads(self: Any, x: Any, projection: Any) -> Any:
        seen["weight"].add(projection.linear.weight.dtype)
        return heads(self, x, projection)

    elementwise.rotate, Conditioner.forward = watched_rotate, watched_condition
    elementwise.Elementwise.heads = watched_heads
    train(replace(config, held_out=HeldOutConfig(share=0)), data, out, device="cpu")
    return seen


@pytest.mark.parametrize("rank", [0, 2])
def test_fine_tuning_in_two_processes_is_that_of_one(tmp_path: Path, rank: int) -> None:
    base = base_folder(tmp_path)
    data = data_for(base, tmp_path)
    config = config_of(base, data, rank, packs_per_step=2, pictures=PicturesConfig(every=0))
    train(config, data, tmp_path / "alone", device="cpu")
    together(2, trained, config, data, tmp_path / "run")
    for name in ("loss", "gradient_norm"):
        expected = figures(tmp_path / "alone", "train", name)
        assert figures(tmp_path / "run", "train", name) == pytest.approx(expected, rel=1e-4)
    file = "adapter_model.safetensors" if rank else "model.safetensors"
    one, other = (load_file(tmp_path / run / "model" / file) for run in ("run", "alone"))
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[weight], other[weight], rtol=1e-4, atol=1e-5) for weight in one)
