"""The pipeline: network, autoencoder and labels together make images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from PIL import Image

from .. import noise
from ..config import require
from ..devices import state_dtype
from ..errors import NonFiniteError
from ..flow.given import GivenTokens, PartlyGivenVelocity
from ..flow.path import path_named
from ..flow.solvers import euler, euler_maruyama, heun
from ..flow.time import TimeShift
from ..grid import Size, unpatchify_each
from ..latents.autoencoder import Autoencoder, LatentScaling
from ..model.nit import NiT
from ..model.rope import RotaryMode
from ..packing.pack import PackShape
from ..shapes import Float, Tensor
from .canvas import given_tokens
from .decoding import decode_images
from .field import guided_velocity
from .recording import Recordings
from .request import ImageRequest, LabelTable, SamplingSettings, Solver, make_packs, make_requests
from .start import Start

BUDGET = {"cpu": 4096, "mps": 4096, "cuda": 16384}  # tokens sampled together, by default
DECODED_PX = {"cpu": 2**20, "mps": 2**21, "cuda": 2**22}  # px decoded together


@dataclass(frozen=True, eq=False, kw_only=True)
class StepInfo:
    """What a callback sees after each solver step.

    Attributes:
        step: steps done of this pack.
        steps: of each pack.
        pack: number of the pack, from 0.
        packs: number of packs.
        latents: gives the pack's images as they are now, (channels, cells high, cells wide), unscaled.
    """

    step: int
    steps: int
    pack: int
    packs: int
    latents: Callable[[], list[Tensor]]


class Pipeline:
    """Makes images of given labels and sizes, many in one packed pass.

    Args:
        model: the network.
        autoencoder: decodes its latents.
        labels: names of the classes.
        scaling: from the network's latents to the autoencoder's.
        path: the path that the network was trained on.
        time_shift: how the times that it was trained at moved with an image's size. A solver's move likewise, so that a
            pack is of images of equally many tokens, unless nothing moves.
        trained_side: the longest side in tokens that training has seen.
        name: how metadata names the model.
        defaults: how to sample where a call does not say.

    Raises:
        ConfigError: these do not belong together: other channels, or another number of classes.
    """

    def __init__(
        self,
        model: NiT,
        autoencoder: Autoencoder,
        labels: LabelTable,
        scaling: LatentScaling,
        *,
        path: str = "linear",
        time_shift: TimeShift | None = None,
        trained_side: int,
        name: str = "unnamed",
        defaults: SamplingSettings | None = None,
    ) -> None:
        _check_together(model, autoencoder, labels, scaling)
        self.model, self.autoencoder, self.labels, self.scaling = model.eval(), autoencoder, labels, scaling
        self.path, self.trained_side, self.name = path, trained_side, name
        self.time_shift = time_shift or TimeShift()
        self.defaults = defaults or SamplingSettings()
        self._recordings = Recordings()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        attention: str = "auto",
    ) -> "Pipeline":
        """Load a pipeline from a folder (also a training run's), a built-in name or a hub id.

        Args:
            name: what to load.
            revision: branch, tag or commit of a hub repository.
            device: "auto", "cpu", "cuda", "cuda:N" or "mps".
            dtype: of the network: "float32", "bfloat16", "float16", "float8" (bfloat16 with the blocks' products in 8
                bits), or "auto": bfloat16 on CUDA, else float32. The autoencoder computes in float32 where the network
                does, else in bfloat16.
            attention: the attention backend.

        Raises:
            CheckpointError: files are missing, damaged, or do not belong together.
            ConfigError: nothing has this name.
            BackendError: this machine lacks the device, or the device lacks products in 8 bits.
        """
        from .folder import load

        return load(cls, str(name), revision=revision, device=device, dtype=dtype, attention=attention)

    def save_pretrained(
        self, folder: str | Path, *, dtype: torch.dtype | None = None, max_shard_size: int | str | None = None
    ) -> None:
        """Write the pipeline's folder; it appears whole, replacing one that is there.

        Args:
            folder: where to.
            dtype: of the stored weights, the network's and the autoencoder's, such as torch.float16; by default they
                stay as they are. It is not what they compute in: `from_pretrained` decides that.
            max_shard_size: of a file of weights, in bytes or such as "15MB"; by default huggingface_hub's 5 GB.

        Raises:
            ConfigError: the dtype or the size is not one.
            DataError: the folder cannot be written.
            NonFiniteError: the dtype cannot hold a weight.
        """
        from .folder import save

        save(self, Path(folder), dtype=dtype, max_shard_size=max_shard_size)

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> None:
        """Upload what `save_pretrained` writes to a hub repository, made if missing."""
        from .folder import push

        push(self, repo_id, private=private)

    @property
    def px_per_token(self) -> int:
        """Sides of images are multiples of this many px."""
        return self.autoencoder.identity.px_per_cell * self.model.config.patch_size

    def __call__(
        self,
        labels: str | int | Sequence[str | int],
        sizes: str | Size | Sequence[str | Size] | None = None,
        *,
        start: Start | Sequence[Start | None] | None = None,
        seeds: int | Sequence[int] | None = None,
        steps: int | None = None,
        solver: Solver | None = None,
        guidance: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        extrapolation: RotaryMode | None = None,
        decoupled: bool | None = None,
        round_size: bool = False,
        budget: int | None = None,
        shape: PackShape | None = None,
        weaker: NiT | None = None,
        on_step: Callable[[StepInfo], None] | None = None,
    ) -> list[Image.Image]:
        """Make images; each depends on its own label, size, seed and the settings only.

        Settings left at None are the pipeline's `defaults`; `SamplingSettings` explains them.

        Args:
            labels: names or numbers; one for all, or one an image.
            sizes: px, text as WIDTHxHEIGHT; one for all, or one an image. None: those of the pictures to start from.
            start: a picture to start from instead of noise alone; one for all, or one an image (or None).
            seeds: one for all, or one an image; by default 0, 1, 2, ….
            steps: solver steps.
            solver: "euler", "heun" or "sde".
            guidance: its scale; 1 is none.
            guidance_interval: least and greatest t at which guidance acts.
            extrapolation: how positions beyond those of training are treated.
            decoupled: extrapolate each axis by its own ratio.
            round_size: take the nearest size that is a multiple of a token's px.
            budget: tokens sampled together: bounds the memory, not the result. An image that is longer goes alone.
            shape: pad every pack to this shape; at an equal shape, images are bit-identical alone or among others.
            weaker: autoguidance (arXiv 2406.02507): a weaker network in the null branch's place.
            on_step: called after each step.

        Returns:
            The images, in the order of the request.

        Raises:
            ConfigError: an unknown label, a size that is not a multiple, an impossible setting, or a picture that
                cannot be laid on its image.
            NonFiniteError: the network made values that are not finite.
        """
        requests = make_requests(
            labels, sizes, seeds, table=self.labels, px_per_token=self.px_per_token, round_size=round_size, start=start
        )
        settings = self.defaults.changed(
            steps=steps,
            solver=solver,
            guidance=guidance,
            guidance_interval=guidance_interval,
            extrapolation=extrapolation,
            decoupled=decoupled,
        )
        latents = self.latents(requests, settings, budget=budget, shape=shape, weaker=weaker, on_step=on_step)
        return self.images(latents, requests)

    def packs(
        self, requests: Sequence[ImageRequest], budget: int | None = None, shape: PackShape | None = None
    ) -> list[list[ImageRequest]]:
        """Which requests are sampled together; by default up to 16,384 tokens on CUDA and 4,096 elsewhere.

        Those of a pack share the times of a solver's steps, so they are of one size where times move with the size.
        """
        budget = BUDGET[self.model.device.type] if budget is None else budget
        return make_packs(requests, budget, shape, one_size=self.time_shift.power > 0)

    @torch.no_grad()
    def latents(
        self,
        requests: Sequence[ImageRequest],
        settings: SamplingSettings,
        *,
        budget: int | None = None,
        shape: PackShape | None = None,
        weaker: NiT | None = None,
        on_step: Callable[[StepInfo], None] | None = None,
    ) -> list[Tensor]:
        """The images' latents, (channels, cells high, cells wide) each, as the autoencoder takes them.

        Arguments as for a call.
        """
        packs = self.packs(requests, budget, shape)
        made: list[Tensor] = []
        for number, pack in enumerate(packs):

            def report(step: int, state: Tensor, number: int = number, pack: Sequence[ImageRequest] = pack) -> None:
                if on_step is not None:
                    on_step(
                        StepInfo(
                            step=step + 1,
                            steps=settings.steps,
                            pack=number,
                            packs=len(packs),
                            latents=lambda: self._unpacked(state, pack),
                        )
                    )

            state = self._solve(pack, settings, shape, weaker, report)
            made += self._unpacked(state, pack)
        self._check_finite(made, requests)
        return made

    @torch.no_grad()
    def decode(self, latents: Sequence[Tensor]) -> list[Image.Image]:
        """Latents of any sizes, as `latents` gives them → RGB images."""
        return decode_images(latents, self.autoencoder, DECODED_PX[self.model.device.type])

    def images(self, latents: Sequence[Tensor], requests: Sequence[ImageRequest]) -> list[Image.Image]:
        """Latents, as `latents` gives them → finished images: decoded, and what stays of pictures put back."""
        made, px = self.decode(latents), self.px_per_token
        return [r.canvas.finished(image, px) if r.canvas else image for image, r in zip(made, requests, strict=True)]

    def _check_finite(self, latents: Sequence[Tensor], requests: Sequence[ImageRequest]) -> None:
        values = [latent.flatten() for latent in latents]
        if not values or torch.cat(values).isfinite().all():  # waits for the device once
            return
        request = next(r for latent, r in zip(latents, requests, strict=True) if not latent.isfinite().all())
        raise NonFiniteError(
            f"the image of label {self.labels.name(request.label)!r} at {request.size} is not finite",
            wanted="finite values",
            fix="use --dtype float32, less guidance, or another checkpoint",
        )

    def _solve(
        self,
        pack: Sequence[ImageRequest],
        settings: SamplingSettings,
        shape: PackShape | None,
        weaker: NiT | None,
        report: Callable[[int, Tensor], None],
    ) -> Float[Tensor, "tokens values"]:
        """From noise to latents, for the images of one pack; the state holds their tokens alone, no padding."""
        velocity = guided_velocity(
            self.model,
            pack,
            settings,
            trained_side=self.trained_side,
            shape=shape,
            weaker=weaker,
            recordings=self._recordings,
        )
        factor = self.time_shift.factor(pack[0].grid.tokens)  # of all, or there is none
        given, path = self._given(pack, settings, factor), path_named(self.path)
        if given is not None:
            velocity = PartlyGivenVelocity(velocity=velocity, path=path, given=given)
        start, times = self._draw(pack, "start"), settings.times(factor)
        if settings.solver == "sde":
            state = euler_maruyama(velocity, start, times, lambda step: self._draw(pack, "step", step), path, report)
        else:
            state = _SOLVERS[settings.solver](velocity, start, times, report)
        return state if given is None else given.finished(state)

    def _given(self, pack: Sequence[ImageRequest], settings: SamplingSettings, factor: float) -> GivenTokens | None:
        """What is known of a pack's tokens; None where all are made from noise alone."""
        canvases = [request.canvas for request in pack]
        if not any(canvases):
            return None
        settings.check_strengths((canvas.strength for canvas in canvases if canvas), factor)
        return given_tokens(
            canvases,
            [request.size for request in pack],
            autoencoder=self.autoencoder,
            scaling=self.scaling,
            patch=self.model.config.patch_size,
            device=self.model.device,
            dtype=state_dtype(self.model.device),
        )

    def _draw(self, pack: Sequence[ImageRequest], *address: noise.Address) -> Float[Tensor, "tokens values"]:
        """Each image's noise, addressed by its own seed."""
        lengths, device = [request.grid.tokens for request in pack], self.model.device
        drawn = torch.empty(sum(lengths), self.model.config.token_values)
        for part, request in zip(drawn.split(lengths), pack, strict=True):
            noise.fill_normal(part, request.seed, *address)
        return drawn.to(device).to(state_dtype(device))  # converted there, so that half as much travels

    def _unpacked(self, state: Float[Tensor, "tokens values"], pack: Sequence[ImageRequest]) -> list[Tensor]:
        """The state's images as maps, unscaled."""
        patch = self.model.config.patch_size
        values = rearrange(state.float(), "tokens (c cells) -> tokens cells c", cells=patch**2)
        values = rearrange(self.scaling.from_model(values), "tokens cells c -> tokens (c cells)")
        return unpatchify_each(values, [request.grid for request in pack], patch)


def _check_together(model: NiT, autoencoder: Autoencoder, labels: LabelTable, scaling: LatentScaling) -> None:
    config = model.config
    found = {
        "channels of the autoencoder": (autoencoder.identity.channels, config.channels),
        "channels of the scaling": (len(scaling.shift), config.channels),
        "labels": (len(labels.names), config.num_classes),
    }
    for name, (got, wanted) in found.items():
        require(got == wanted, f"{got} {name}", f"{wanted}, as the model has", "use files that belong together")


_SOLVERS = {"euler": euler, "heun": heun}
