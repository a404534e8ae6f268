"""Fine-tuning a made base: label tables, what is kept, LoRA's files, exact resume, and bad input."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from anyres.cli import main
from anyres.errors import CheckpointError, ConfigError
from anyres.latents.format import LatentDataset
from anyres.model.nit import NiT
from anyres.sample.pipeline import Pipeline
from anyres.train import checkpoint, record
from anyres.train.base import BaseModel, begin_from
from anyres.train.config import HeldOutConfig, PicturesConfig
from anyres.train.loop import train
from anyres.train.state import TrainState
from tests.made import dataset
from tests.train.made_base import base_folder, config_of, data_for
from tests.train.test_run import losses

CPU = torch.device("cpu")
TABLE = "conditioner.labels.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_folder(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def data(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_for(base, tmp_path_factory.mktemp("data"))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_rows_of_known_labels_are_kept_by_name_and_new_ones_begin_as_the_null_class(base: Path, data: Path) -> None:
    config = config_of(base, data)
    assert LatentDataset.open(data).info.labels == ("dog", "nebula")
    old = NiT.from_pretrained(base).state_dict()
    new = TrainState.create(config, CPU).model.state_dict()
    _, nebula, _, null = old[TABLE]
    assert torch.equal(new[TABLE], torch.stack([null, nebula, null]))
    assert not torch.equal(null, nebula)
    assert all(torch.equal(old[name], new[name]) for name in old if name != TABLE)


def test_the_architecture_is_the_bases(base: Path, data: Path) -> None:
    config, own = config_of(base, data), NiT.from_pretrained(base).config
    assert config.model == replace(own, num_classes=2)
    assert config.model.position_order == "column_major"


def test_a_run_exports_its_labels_and_what_the_base_has_seen(base: Path, data: Path, tmp_path: Path) -> None:
    train(config_of(base, data), data, tmp_path / "run", device="cpu")
    pipe = Pipeline.from_pretrained(tmp_path / "run", device="cpu")
    assert pipe.labels.names == ("dog", "nebula")
    assert pipe.defaults == Pipeline.from_pretrained(base, device="cpu").defaults
    assert pipe.trained_side == 4  # the base's; the pictures have three tokens a side
    assert int(LatentDataset.open(data).cells.max()) // 2 == 3
    assert pipe("dog", "48x16", steps=2)[0].size == (48, 16)
    best = Pipeline.from_pretrained(tmp_path / "run" / "best", device="cpu")
    assert best.labels.names == ("dog", "nebula")


def test_a_rise_of_the_held_out_loss_is_said_and_the_best_model_kept(
    base: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also by a run that is interrupted on the way."""
    curve = iter([1.0, 0.9, 0.8, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0])
    honest = record.held_out_loss
    monkeypatch.setattr(record, "held_out_loss", lambda *given: replace(honest(*given), loss=next(curve)))
    falling = iter([torch.tensor(2.0 - 0.1 * step) for step in range(10)])
    after = record.Recorder.after_step

    def falls(self, lengths, outcome, guard):
        outcome = replace(outcome, loss=replace(outcome.loss, total=next(falling)))
        return after(self, lengths, outcome, guard)

    monkeypatch.setattr(record.Recorder, "after_step", falls)
    held_out = HeldOutConfig(share=0.2, every=1, keep_best=True)
    config = config_of(base, data, held_out=held_out, pictures=PicturesConfig(every=0))
    assert train(replace(config, steps=5), data, tmp_path / "run", device="cpu").best is None
    report = train(replace(config, steps=10), data, tmp_path / "run", device="cpu")
    assert report.best is not None
    assert report.best.step == 4
    assert caplog.text.count("overfitting: the held-out loss was lowest at step 4, 0.7000") == 1
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    held = [line for line in lines if line["kind"] == "held_out"]
    assert [line["overfits"] for line in held] == [False] * 6 + [True] * 4
    assert held[-1]["best_step"] == 4
    # the average of step 4 is that of a run that ends there
    monkeypatch.undo()
    train(replace(config, steps=4), data, tmp_path / "four", device="cpu")
    assert same(*(load_file(tmp_path / name / "model.safetensors") for name in ("run/best", "four/model")))


def test_a_network_alone_has_numbers_for_labels(base: Path, tmp_path: Path) -> None:
    NiT.from_pretrained(base).save_pretrained(tmp_path / "bare")
    found = BaseModel.read(str(tmp_path / "bare"))
    assert (found.labels, found.description) == (("0", "1", "2"), None)
    data = data_for(base, tmp_path, labels=("2", "5"))
    assert config_of(tmp_path / "bare", data).base == replace(found.config(("2", "5")), rows=(2, None))


@pytest.mark.parametrize("rank", [0, 2])
def test_a_resumed_run_is_bit_for_bit_the_undisturbed_one(base: Path, data: Path, tmp_path: Path, rank: int) -> None:
    config = config_of(base, data, rank)
    train(config, data, tmp_path / "whole", device="cpu")
    train(replace(config, steps=3), data, tmp_path / "parts", device="cpu")
    train(config, data, tmp_path / "parts", device="cpu")
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    stem = "adapter_model" if rank else "model"
    for folder in ("model", "best"):
        whole, parts = (load_file(tmp_path / run / folder / f"{stem}.safetensors") for run in ("whole", "parts"))
        assert same(whole, parts)


def test_lora_changes_its_parts_alone_and_checkpoints_hold_no_more(base: Path, data: Path, tmp_path: Path) -> None:
    config = config_of(base, data, 2)
    train(config, data, tmp_path / "run", device="cpu")
    fresh, state = TrainState.create(config, CPU), TrainState.create(config, CPU)
    saved = checkpoint.restore(tmp_path / "run" / "checkpoints", state)
    assert saved is not None
    trained = {name for name, weight in state.model.named_parameters() if weight.requires_grad}
    assert trained == {name for name in fresh.model.state_dict() if ".parametrizations.weight.0." in name} | {TABLE}
    before, after = fresh.model.state_dict(), state.model.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == trained
    held = sum(path.stat().st_size for path in saved.glob("*.distcp"))
    whole = sum(weight.numel() * weight.element_size() for weight in state.model.parameters())
    few = sum(after[name].numel() * 4 for name in trained)
    assert 4 * few < held < whole


def test_an_adapter_samples_as_the_run_that_made_it_and_as_its_merged_folder(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, merged = tmp_path / "run", tmp_path / "merged"
    config = config_of(base, data, 2)
    train(config, data, run, device="cpu")
    names = sorted(path.name for path in (run / "model").iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors", "labels.json", "pipeline.json"]
    assert main(["merge", str(run), "--out", str(merged)]) == 0
    pipes = [Pipeline.from_pretrained(path, device="cpu") for path in (run, merged)]
    images = [pipe(["dog", "nebula"], "48x32", steps=3) for pipe in pipes]
    assert [image.tobytes() for image in images[0]] == [image.tobytes() for image in images[1]]
    assert not (merged / "adapter_config.json").exists()
    plain = Pipeline.from_pretrained(base, device="cpu")("nebula", "48x32", steps=3)
    assert plain[0].tobytes() != images[0][1].tobytes()
    assert main(["merge", str(merged), "--out", str(tmp_path / "again")]) == 2
    assert "is no adapter" in capsys.readouterr().err


def test_a_base_that_has_changed_is_refused(base: Path, data: Path, tmp_path: Path) -> None:
    own = tmp_path / "base"
    shutil.copytree(base, own)
    config = config_of(own, data, 2)
    train(config, data, tmp_path / "run", device="cpu")
    pipe = Pipeline.from_pretrained(own, device="cpu")
    with torch.no_grad():
        pipe.model.head.linear.bias.add_(1)
    pipe.save_pretrained(own)
    with pytest.raises(CheckpointError, match="its weights are others"):
        Pipeline.from_pretrained(tmp_path / "run", device="cpu")
    with pytest.raises(CheckpointError, match="its weights have changed"):
        TrainState.create(config, CPU)
    with pytest.raises(CheckpointError, match="began from"):
        train(config_of(own, data, 2), data, tmp_path / "run", device="cpu")
    with pytest.raises(CheckpointError, match="LoRA of rank 2"):
        train(config_of(base, data), data, tmp_path / "run", device="cpu")


def test_an_adapter_of_damaged_files_is_refused(base: Path, data: Path, tmp_path: Path) -> None:
    train(config_of(base, data, 2), data, tmp_path / "run", device="cpu")
    adapter = tmp_path / "run" / "model"
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "r": 3}))
    with pytest.raises(CheckpointError, match="cannot be used"):
        Pipeline.from_pretrained(adapter, device="cpu")
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(CheckpointError, match="does not name a base model"):
        Pipeline.from_pretrained(adapter, device="cpu")


def test_another_architecture_than_the_bases_is_refused(base: Path, data: Path) -> None:
    config = config_of(base, data)
    assert config.base is not None
    with pytest.raises(CheckpointError, match=r"model\.depth: 2 → 3"):
        begin_from(config.base, NiT(replace(config.model, depth=3)))


def test_lora_needs_a_base(base: Path, data: Path) -> None:
    with pytest.raises(ConfigError, match="no base"):
        replace(config_of(base, data), base=None, lora_rank=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["finetune"], "without --from"),
        (["tutorial", "--from", "mini"], "begins with random weights"),
        (["finetune", "--from", "mimi"], "did you mean 'mini'"),
        (["finetune", "--from", "mini"], "--autoencoder mini --out DATA"),
        (["tutorial", "--lora-rank", "4"], "no base"),
    ],
)
def test_bad_input_leaves_with_2_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    data = dataset(tmp_path, multiple_of_cells=2)
    assert main(["train", *arguments, "--data", str(data), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "to fix:" in error
    assert not (tmp_path / "run").exists()


def test_a_run_says_at_its_start_what_it_will_do(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", str(data), "--out", str(tmp_path / "run"), "--device", "cpu", "--steps", "2"]
    assert main(["train", "finetune", "--from", str(base), *options, "--pictures.every", "0"]) == 0
    said = capsys.readouterr().out
    assert "known: nebula; new: dog; no longer: land, planet" in said
    assert "2 steps" in said
