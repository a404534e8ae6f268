"""The trained model that a fine-tuning begins from: what it is, and its weights in a network for other labels."""

from dataclasses import dataclass, replace

import torch

from .. import hub
from ..config import differences
from ..errors import CheckpointError
from ..latents.autoencoder import fingerprint
from ..model.nit import NiT
from ..sample.folder import PipelineFile, is_bare, load_network, model_folder, read_description
from .config import BaseConfig

LABEL_TABLE = "conditioner.labels.weight"


@dataclass(frozen=True, kw_only=True, eq=False)
class BaseModel:
    """A trained model.

    Attributes:
        name: its folder (absolute), name in the box, or hub id.
        revision: the hub repository's commit.
        network: on the CPU, in float32.
        labels: names of its classes; numbers, where it has no names.
        description: of its pipeline; None of a network by itself, such as an imported one.
    """

    name: str
    revision: str | None
    network: NiT
    labels: tuple[str, ...]
    description: PipelineFile | None

    @classmethod
    def read(cls, name: str, revision: str | None = None) -> "BaseModel":
        """Find and read a model, by a name as `Pipeline.from_pretrained` takes it; also a network's folder alone.

        Raises:
            AnyResError: nothing has this name, or what has it cannot be read.
        """
        found = hub.resolve(name, revision=revision)
        name, revision = hub.lasting(name, found)
        with hub.mended_by_installing(found):
            if is_bare(found):
                network = NiT.from_pretrained(found)
                labels, description = tuple(map(str, range(network.config.num_classes))), None
            else:
                folder = model_folder(found)
                description, labels = read_description(folder)
                network = load_network(folder)
        return cls(name=name, revision=revision, network=network.float(), labels=labels, description=description)

    def config(self, labels: tuple[str, ...]) -> BaseConfig:
        """How a run on these labels begins from it."""
        return BaseConfig(
            name=self.name,
            revision=self.revision,
            fingerprint=fingerprint(self.network.state_dict()),
            rows=tuple(self.labels.index(label) if label in self.labels else None for label in labels),
            trained_side=self.description.trained_side if self.description else 0,
        )


@torch.no_grad()
def begin_from(base: BaseConfig, network: NiT) -> None:
    """Give a network the base's weights.

    Each row of the label table is the base's of that label. A new label begins as the null class: what the base makes
    when it is told nothing, rather than a mixture of labels that it is not.

    Raises:
        CheckpointError: the base has changed since the run was configured, or is of another architecture.
    """
    found = BaseModel.read(base.name, base.revision).network
    if fingerprint(found.state_dict()) != base.fingerprint:
        raise CheckpointError(
            f"the model {base.name} is not the one that this run began from: its weights have changed",
            wanted=f"the weights of fingerprint {base.fingerprint}",
            fix="restore it, or start a new run with another --out",
        )
    like = replace(found.config, num_classes=network.config.num_classes)
    changed = list(differences(like, network.config, "model."))
    if changed:
        raise CheckpointError(
            f"the model {base.name} has another architecture: {'; '.join(changed)}",
            wanted="its own architecture, which its weights fit",
            fix="drop those options",
        )
    weights = found.state_dict()
    rows = [found.config.null_label if row is None else row for row in (*base.rows, None)]
    network.load_state_dict({**weights, LABEL_TABLE: weights[LABEL_TABLE][rows]})
