"""The study of the balance of sizes: what its arms change, what it measures, what its tables say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.balance import ARMS, Job, config_of
from benchmarks.balance_measures import TIMES, held_out_losses
from benchmarks.balance_plots import BASE, BUCKETS, excess, losses, weights

from anyres.config import differences
from anyres.latents.format import LatentDataset
from anyres.train.loop import train
from tests.made import dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(
        tmp_path_factory.mktemp("made"), multiple_of_cells=2, variants=("native", "square-256"), upscale=True
    )


def job(data: Path, run: Path, arm: str, seed: int = 0) -> Job:
    settings = {"data": data, "recipe": "tutorial", "steps": 2, "budget": 512, "held_out": 0.3, "device": "cpu"}
    return Job(run=run, arm=arm, seed=seed, real=None, count=0, **settings)


def test_an_arm_differs_from_the_base_in_what_it_is_called_by_and_in_nothing_else(data: Path, tmp_path: Path) -> None:
    opened = LatentDataset.open(data)
    base = config_of(job(data, tmp_path, BASE), opened)
    changed = {}
    for arm in ARMS:
        ours = config_of(job(data, tmp_path, arm), opened)
        changed[arm] = {line.split(":")[0].rsplit(".", 1)[0] for line in differences(base, ours)}
    assert changed == {
        "by token": set(),
        "loss by root": {"loss_tokens_power"},
        "loss by image": {"loss_tokens_power"},
        "draws by root": {"packing.draws"},
        "draws by token": {"packing.draws"},
        "native only": {"packing.draws"},
        "times shifted": {"time.shift"},
    }


@pytest.mark.slow
def test_losses_are_of_the_held_out_versions_and_do_not_depend_on_the_arm(data: Path, tmp_path: Path) -> None:
    """The same model is measured alike, whatever it was trained with; and noise is harder to foresee at its end."""
    opened, first = LatentDataset.open(data), job(data, tmp_path / "run", BASE)
    config = config_of(first, opened)
    small = replace(config, model=replace(config.model, hidden_size=48, depth=2, num_heads=2))
    train(small, data, first.run, device="cpu")
    found = []
    for arm in ARMS:
        other = config_of(replace(first, arm=arm), opened)
        found.append(held_out_losses(first.run / "model", opened, other, 0.3, "cpu"))
    assert all(each == found[0] for each in found)
    assert np.array(found[0]).shape == (opened.held_out(0.3).sum(), TIMES)
    # after two steps it foresees next to nothing: what is left is the velocity's own mean square, 1 and the data's
    row = int(np.flatnonzero(opened.held_out(0.3))[0])
    own = 1 + float(opened.read(row).square().mean())
    assert np.mean(found[0][0]) == pytest.approx(own, rel=0.2)


def planted(seeds: int = 3, versions: int = 200) -> dict:
    """Losses in which one arm is 5% better on images of more than 256 tokens, 5% worse on others."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 1024, versions).tolist()
    of_version = rng.uniform(0.5, 1.5, (versions, TIMES))
    runs = []
    for seed in range(seeds):
        for arm in (BASE, "other"):
            noise = 1 + 0.01 * rng.standard_normal((versions, TIMES))
            change = np.array([1.0 if arm == BASE else 0.95 if n > 256 else 1.05 for n in tokens])[:, None]
            runs.append({"arm": arm, "seed": seed, "losses": (of_version * noise * change).tolist()})
    return {"runs": runs, "versions": [{"image": str(i // 2), "tokens": n} for i, n in enumerate(tokens)]}


def test_tables_find_what_was_planted() -> None:
    found = planted()
    arms, groups = losses(found), weights(found)
    assert arms["other"].shape == (3, 200, TIMES)
    for name in BUCKETS:
        value, low, high = excess(found, arms, "other", groups[name])
        true = 0.05 if name in ("to 128", "129 to 256") else -0.05
        assert low < true < high
        assert low < value < high
        assert high - low < 0.02
        assert not excess(found, arms, BASE, groups[name]).any()
    tokens = np.array([version["tokens"] for version in found["versions"]])
    means = arms["other"].mean(axis=(0, 2)), arms[BASE].mean(axis=(0, 2))
    by_token = excess(found, arms, "other", groups["each token"])[0]
    assert by_token == pytest.approx((means[0] @ tokens) / (means[1] @ tokens) - 1)
    assert by_token < excess(found, arms, "other", groups["each image"])[0]
