"""Small networks with random weights: an untouched AdaLN-Zero network outputs zero and hides everything."""

import torch

from anyres.model.config import NiTConfig
from anyres.model.nit import NiT


def small_config(**overrides) -> NiTConfig:
    fields = {"channels": 6, "hidden_size": 48, "depth": 2, "num_heads": 2, "num_classes": 5, **overrides}
    return NiTConfig(**fields)


def random_model(config: NiTConfig, *, seed: int = 0, attention: str = "auto") -> NiT:
    generator = torch.Generator().manual_seed(seed)
    model = NiT(config, attention=attention).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1
            # norms' weights stay near one
            parameter.copy_(values * scale + (1.0 if name.endswith("norm.weight") else 0.0))
    return model
