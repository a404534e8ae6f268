"""The bookkeeping of the benchmarks: packs, products, weights, kinds of kernels; and dry runs of both."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from benchmarks.floors import Ceilings, products, traffic_ms, training_traffic
from benchmarks.profiling import kind_of
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from anyres.grid import Grid
from anyres.model.attention import attend, plan_attention
from anyres.model.config import NiTConfig
from anyres.model.nit import NiT
from anyres.model.released import config_from_arguments
from anyres.packing.pack import PackLayout
from benchmarks import __main__, cpu, floors, released, sizes, sizes_plot, training
from tests.model.helpers import random_model, small_config

GOLDEN = Path(__file__).parents[1] / "golden" / "base"


def test_the_pack_is_full_and_of_three_kinds() -> None:
    grids = training.made_grids(16384)
    assert (len(grids), sum(grid.tokens for grid in grids)) == (91, 16346)
    kinds = Counter(grid if grid in (Grid(8, 8), Grid(16, 16)) else "native" for grid in grids)
    assert all(abs(count - 91 / 3) < 3 for count in kinds.values())
    assert any(grid.height != grid.width for grid in grids)
    assert training.made_grids(16384) == grids
    assert all(room - 64 < sum(grid.tokens for grid in training.made_grids(room)) <= room for room in (64, 500, 3000))


@pytest.mark.parametrize(("preset", "patch"), [("xl", 1), ("xxl", 1), ("mini", 2)])
def test_products_and_attention_are_the_flops_of_a_pass(preset: str, patch: int) -> None:
    config = NiTConfig.preset(preset, num_classes=1000, patch_size=patch)
    lengths = [grid.tokens for grid in training.made_grids(4096)]
    counted = sum(product.flops for product in products(config, sum(lengths), len(lengths)))
    attention = 4 * config.hidden_size * config.depth * sum(length**2 for length in lengths)
    assert counted + attention == config.forward_flops(lengths)


@pytest.mark.parametrize("rank", [None, 12])
def test_products_are_the_linear_maps_of_the_network(rank: int | None) -> None:
    model = random_model(small_config(adaln_rank=rank, mlp_ratio=3.0))
    layout = PackLayout.from_grids([Grid(2, 3), Grid(4, 1), Grid(1, 1)])
    seen: Counter[tuple[int, int, int]] = Counter()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(
                lambda _m, inputs, out: seen.update([(len(out), inputs[0].shape[1], out.shape[1])])
            )
    model(torch.randn(11, 6), torch.rand(3), torch.tensor([0, 1, 2]), layout)
    listed: Counter[tuple[int, int, int]] = Counter()
    for product in products(model.config, 11, 3):
        listed[product.rows, product.inputs, product.outputs] += product.times
    assert seen == listed


def test_traffic_over_bandwidth() -> None:
    config = NiTConfig.preset("xl", num_classes=1000)
    without = sum(each.bytes for each in training_traffic(config, 16000, 0))
    assert without == 38 * 2 * 16000 * 1152 * 28  # 16 tensors of tokens × width forward, 22 backward, in each block
    with_weights = sum(each.bytes for each in training_traffic(config, 16000, 1000))
    assert with_weights - without == 1000 * (2 + 26 + 8 + 2)
    ceilings = Ceilings(tflops=1, terabytes_a_second=2)
    assert traffic_ms(training_traffic(config, 16000, 0), ceilings) == pytest.approx(without / 2e12 * 1000)


def test_released_weights_go_where_from_released_puts_them() -> None:
    state, meta = load_file(GOLDEN / "weights.safetensors"), json.loads((GOLDEN / "meta.json").read_text())
    config = config_from_arguments(meta["network"])
    wanted = NiT.from_released(GOLDEN / "weights.safetensors", config=config).without_projection()
    model = NiT(wanted.config)
    released.load_into(model, state)
    assert all(torch.equal(value, wanted.state_dict()[name]) for name, value in model.state_dict().items())


def test_no_parameter_stays_zero_and_none_else_changes() -> None:
    model = NiT(small_config())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    released.randomise(model)
    for name, value in model.state_dict().items():
        assert value.any(), name
        assert torch.equal(value, before[name]) == bool(before[name].any()), name


def test_the_stand_in_attends_within_segments_and_leaves_no_trace() -> None:
    layout = PackLayout.from_grids([Grid(2, 3), Grid(4, 1), Grid(1, 1)])
    q, k, v = torch.randn(3, 11, 2, 8)
    found = released._varlen(q, k, v, layout.cu_seqlens, layout.cu_seqlens, 6, 6)
    torch.testing.assert_close(found, attend(q, k, v, plan_attention(layout, "reference", q.dtype)))
    with released._stand_in("made_up.inner", thing=1):
        from made_up.inner import thing  # pyright: ignore[reportMissingImports]
    assert thing == 1
    assert not {"made_up", "made_up.inner"} & sys.modules.keys()


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("nvjet_tst_192x192_64x4_2x1_v_bz_coopB_TNT", "products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "products"),
        ("void flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<..., cutlass::bfloat16_t, ...>", "attention"),
        ("_norm_forward", "norms and modulation"),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<float, float>", "norms and modulation"),
        ("_heads_backward", "rotation"),
        ("_gelu_backward", "GELU"),
        ("void at::native::multi_tensor_apply_kernel<..., FusedAdamMathFunctor<float, 4>>", "optimizer"),
        ("void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda(...)>", "copies and casts"),
        ("Memcpy HtoD (Pinned -> Device)", "copies and casts"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>", "other"),
    ],
)
def test_kinds_of_kernels(kernel: str, kind: str) -> None:
    assert kind_of(kernel) == kind


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network and ceilings that take no time."""
    monkeypatch.setattr(training, "WARM_UP", 1)
    monkeypatch.setattr(floors, "ceilings", lambda device: Ceilings(tflops=1, terabytes_a_second=1))
    monkeypatch.setattr(NiTConfig, "preset", lambda name, **fields: small_config(**fields))


def run(monkeypatch: pytest.MonkeyPatch, out: Path, *arguments: str) -> dict:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments, "--device", "cpu", "--out", str(out)])
    __main__.main()
    return json.loads(out.read_text())["results"]


def test_training_alone(tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = tmp_path / "trace.json"
    found = run(
        monkeypatch, tmp_path / "t.json", "training", "--tokens", "128", "--repeats", "2", "--profile", str(trace)
    )
    assert len(found["ours"]["each_ms"]) == 2
    assert found["ratios"].keys() == {"ours / floor"}
    floor = found["floor"]
    assert floor["ms"] == pytest.approx(floor["products_ms"] + floor["attention_ms"] + floor["traffic_ms"])
    assert sum(kind["share"] for kind in found["ours"]["profile"]["kinds"].values()) == pytest.approx(1)
    assert "traceEvents" in json.loads(trace.read_text())


def test_sizes(tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes.Network, "fits", lambda _, tokens, recomputed: tokens + 64 * (2 - recomputed) <= 192)
    monkeypatch.setattr(NiTConfig, "preset", lambda name, **fields: small_config(**{**fields, "depth": 3}))
    found = run(monkeypatch, tmp_path / "s.json", "sizes", "--tiny", "--repeats", "1")
    assert [row["recomputed_blocks"] for row in found["presets"]] == [0, 2]
    assert len({row["loss"] for row in found["presets"]}) == 2  # the second is of the weights after some steps
    # as few as fit, and as many as are worth it
    assert [(row["tokens"], row["recomputed_blocks"]) for row in found["growth"]] == [
        (64, 0),
        (64, 2),
        (119, 1),
        (119, 2),
    ]
    assert [(row["side"], row["images"], row["tokens"]) for row in found["images"]] == [(4, 8, 128), (8, 2, 128)]
    assert found["largest"] == []
    for row in found["growth"]:
        assert row["tokens_a_second"] == pytest.approx(1000 * row["tokens"] / row["ms"])


def test_the_largest_pack_is_looked_for_downwards(capsys: pytest.CaptureFixture[str]) -> None:
    class Full:
        def mixed(self, tokens: int, recomputed: int, repeats: int) -> dict:
            if tokens > 9000:
                raise torch.OutOfMemoryError
            return {"tokens": tokens, "recomputed_blocks": recomputed, "repeats": repeats}

    found = sizes.fitting(cast(Any, Full()), 12288, 3)
    assert found == {"tokens": 8192, "recomputed_blocks": 3, "repeats": 1}
    assert capsys.readouterr().out.count("do not fit") == 2


def test_the_plot_of_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {
            "tokens": tokens,
            "recomputed_blocks": blocks,
            "tokens_a_second": 1e8 / tokens,
            "memory_gib": tokens / (1 + blocks),
        }
        for tokens, blocks in ((64, 0), (64, 3), (128, 1), (128, 3), (256, 3))
    ]
    images = [{"side": side, "tokens": 256, "tokens_a_second": 1000 / side} for side in (4, 8, 16)]
    (tmp_path / "sizes.json").write_text(json.dumps({"results": {"growth": rows, "images": images}}))
    drawn = []
    curve = sizes_plot.curve
    monkeypatch.setattr(sizes_plot, "curve", lambda axes, *what: (drawn.append(what), curve(axes, *what)))
    options = ["--results", str(tmp_path / "sizes.json"), "--out", str(tmp_path / "plot.png")]
    monkeypatch.setattr(sys, "argv", ["benchmarks", "sizes_plot", *options])
    __main__.main()
    of_speed = [[(row["tokens"], row["recomputed_blocks"]) for row in what[0]] for what in drawn if what[3]][::2]
    assert of_speed == [[(64, 0), (128, 1), (256, 3)], [(64, 3), (128, 3), (256, 3)]]
    assert [row["tokens"] for row in drawn[-1][0]] == [16, 64, 256]
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("backward", [False, True])
def test_what_is_alone_is_every_product_and_attention(backward: bool) -> None:
    config, lengths = small_config(adaln_rank=12), [6, 4, 6, 1]
    work = cpu.work_alone(config, lengths, backward=backward)
    with FlopCounterMode(display=False) as counter:
        work()
    counted = sum(product.flops for product in products(config, sum(lengths), len(lengths)))
    of_products = counter.get_flop_counts()["Global"][torch.ops.aten.mm]
    assert of_products == counted * (3 if backward else 1)
    seen: Counter[tuple[int, ...]] = Counter()

    def attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        seen[tuple(q.shape)] += 1
        return q + k + v

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", attended)
        work()
    heads, dim = config.num_heads, config.head_dim
    assert seen == {(n, heads, length, dim): config.depth for n, length in ((2, 6), (1, 4), (1, 1))}


def test_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "SIZES", ("64x32",))
    monkeypatch.setattr(cpu, "PACKS", {**cpu.PACKS, "tutorial": (32, [Grid(3, 4), Grid(2, 2)])})
    monkeypatch.setattr(
        sys, "argv", ["b", "cpu", "--cases", "sampling", "tutorial", "--repeats", "1", "--out", "c.json"]
    )
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    __main__.main()
    torch.set_num_threads(threads)
    sampling, tutorial = json.loads((tmp_path / "c.json").read_text())["results"]["cases"]
    assert (sampling["case"], sampling["tokens"], sampling["steps"]) == ("sampling", 2 * 2 * 8, 2)
    assert (tutorial["tokens"], tutorial["images"]) == (32, 4)
    for case in (sampling, tutorial):
        assert case["ratio"] == pytest.approx(case["ours_ms"] / case["alone_ms"])
        assert case["ratio_of_processor_time"] > 0


def test_sampling_alone(tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = ("--cases", "64x32:2", "96x64:1", "--steps", "4", "--repeats", "1")
    monkeypatch.setattr(NiTConfig, "preset", lambda name, **fields: small_config(**{**fields, "channels": 6}))
    found = run(monkeypatch, tmp_path / "s.json", "sampling", *cases)
    assert [(case["size"], case["images"]) for case in found["cases"]] == [("64x32", 2), ("96x64", 1)]
    for case in found["cases"]:
        assert case["ours"]["images_a_second"] == pytest.approx(1000 * case["images"] / (4 * case["ours"]["ms_a_step"]))
