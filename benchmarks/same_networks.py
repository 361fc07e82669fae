"""Whether our SASRec, SASRecF and FDSA compute what RecBole's do, given RecBole's weights.

    python benchmarks/same_networks.py

RecBole's networks get large random weights and answer random histories over the items of a data set, in an
environment of their own; ours get the same weights and histories. The result is printed and written to the
section "The same networks" of RESULTS.md; a difference that is more than rounding fails.
"""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from peers.environment import recbole_python
from peers.inter_file import write_inter, write_items
from report import command, conditions, markdown_table, own_versions, paragraph, write_section
from script import run_script
from torch import Tensor

from easrec.data.feature_table import load_feature_table
from easrec.data.interactions import load_interactions
from easrec.models.architecture import Architecture
from easrec.models.features import FDSA, SASRecF
from easrec.models.transformer import LAYER_NORM_EPS, SequentialRecommender

SCRIPT = Path(__file__).parent / "peers" / "recbole_networks.py"
HEADS = 2
LARGEST_DIFFERENCE = 1e-4
"""Between outputs whose deviation is about 1: float32 through two layers."""

_NOTES = """
Every weight of RecBole's networks moved by N(0, 0.15^2) (they begin with a deviation of 0.02); {histories}
random histories of 1 to {length} items of `{data}`, with {values} values of `{feature}`; N = {length}, hidden
{hidden}, inner {inner}, {layers} layers, {heads} heads, softmax attention, outputs at the last item, in
evaluation mode. Of FDSA two things are different and known. RecBole has one LayerNorm for the inputs of both
streams and once more for their joined output, where ours has a norm for each input and none there, so that
ours is followed by it here. And RecBole means the values of a feature, where ours weighs them by the
paper's attention, whose scores are zero here, which is the mean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SameNetworksConfig:
    """Compare the outputs of our networks with those of RecBole's."""

    data: str = "ml-100k"
    """Data set by name or path, one that brings features of its items along."""
    recbole: Path | None = None
    """Directory of RecBole's environment, see `benchmarks/peers/environment.py`."""
    pip_args: str = ""
    """Passed to pip when that environment is made: --pip-args="--extra-index-url URL"."""


@dataclass(frozen=True, slots=True)
class Theirs:
    """What RecBole's side left of one network."""

    weights: dict[str, Tensor]
    histories: Tensor
    outputs: Tensor
    values: Tensor | None

    @classmethod
    def read(cls, path: Path) -> "Theirs":
        """From a file of `recbole_networks.py`."""
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: torch.from_numpy(found[name]) for name in found.files}
        prefix = "weight."
        weights = {
            name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)
        }
        return cls(weights, arrays["histories"], arrays["outputs"], arrays.get("values"))

    def layers(self, theirs: str, ours: str) -> dict[str, Tensor]:
        """The weights of RecBole's encoder `theirs`, named as in our list of layers `ours`."""
        found: dict[str, Tensor] = {}
        for number in range(sum(name.endswith("dense_1.bias") for name in self._of(theirs))):
            attention = f"{theirs}.layer.{number}.multi_head_attention"
            feed = f"{theirs}.layer.{number}.feed_forward"
            for kind in ("weight", "bias"):
                parts = [self.weights[f"{attention}.{name}.{kind}"] for name in ("query", "key", "value")]
                found[f"{ours}.{number}.query_key_value.{kind}"] = torch.cat(parts)
                for name, place in (
                    ("attention_output", f"{attention}.dense"),
                    ("attention_norm", f"{attention}.LayerNorm"),
                    ("feed_in", f"{feed}.dense_1"),
                    ("feed_out", f"{feed}.dense_2"),
                    ("feed_norm", f"{feed}.LayerNorm"),
                ):
                    found[f"{ours}.{number}.{name}.{kind}"] = self.weights[f"{place}.{kind}"]
        return found

    def _of(self, module: str) -> list[str]:
        return [name for name in self.weights if name.startswith(f"{module}.")]

    def dense(self, theirs: str, ours: str) -> dict[str, Tensor]:
        """Weight and bias of a layer under another name."""
        return {f"{ours}.{kind}": self.weights[f"{theirs}.{kind}"] for kind in ("weight", "bias")}

    def embeddings(self) -> dict[str, Tensor]:
        """Of items and positions, and the norm of inputs."""
        return {
            "item_embedding.weight": self.weights["item_embedding.weight"],
            "position_embedding.weight": self.weights["position_embedding.weight"],
            **self.dense("LayerNorm", "embedding_norm"),
        }

    @property
    def value_embedding(self) -> Tensor:
        """Of the one feature."""
        (found,) = (value for name, value in self.weights.items() if "token_seq_embedding_table" in name)
        return found


def architecture_of(theirs: Theirs, encoder: str) -> Architecture:
    """The sizes of RecBole's network."""
    inner, hidden = theirs.weights[f"{encoder}.layer.0.feed_forward.dense_1.weight"].shape
    layers = sum(name.startswith(f"{encoder}.") and name.endswith("dense_1.bias") for name in theirs.weights)
    return Architecture(hidden, inner, layers, HEADS, "softmax", gate_layers=0)


def our_outputs(name: str, theirs: Theirs) -> Tensor:
    """What ours makes of the histories with RecBole's weights, (B, D)."""
    encoder = "item_trm_encoder" if name == "FDSA" else "trm_encoder"
    architecture = architecture_of(theirs, encoder)
    num_items, length = len(theirs.weights["item_embedding.weight"]) - 1, theirs.histories.shape[1]
    weights = theirs.embeddings() | theirs.layers(encoder, "layers")
    if name == "SASRec":
        network = SequentialRecommender(architecture, num_items, length)
    else:
        assert theirs.values is not None
        kind = {"SASRecF": SASRecF, "FDSA": FDSA}[name]
        num_values = len(theirs.value_embedding) - 1
        network = kind(
            architecture, num_items, length, item_values=theirs.values.long(), num_values=num_values
        )
        weights["item_values"] = network.item_values
        weights["value_embedding.weight"] = theirs.value_embedding
        if name == "SASRecF":
            weights |= theirs.dense("concat_layer", "fusion")
        else:
            weights |= theirs.dense("LayerNorm", "feature_norm") | theirs.dense("concat_layer", "joining")
            weights |= theirs.layers("feature_trm_encoder", "feature_layers")
            own = network.state_dict()
            weights |= {key: torch.zeros_like(own[key]) for key in own if key.startswith("value_attention")}
            weights["value_score"] = torch.zeros_like(own["value_score"])
    network.load_state_dict(weights)
    with torch.inference_mode():
        outputs = network.eval().last_outputs(theirs.histories)
        if name == "FDSA":
            norm = theirs.dense("LayerNorm", "norm")
            outputs = F.layer_norm(
                outputs, outputs.shape[-1:], norm["norm.weight"], norm["norm.bias"], LAYER_NORM_EPS
            )
    return outputs


def run(config: SameNetworksConfig) -> None:
    """Compute both sides, print and write."""
    python = recbole_python(config.recbole, config.pip_args)
    interactions = load_interactions(config.data)
    features = load_feature_table(config.data, interactions)
    rows = []
    with tempfile.TemporaryDirectory(prefix="easrec-networks-") as folder:
        write_inter(interactions, Path(folder), "log")
        write_items(features, interactions, Path(folder), "log")
        subprocess.run([python, SCRIPT, folder, "log", folder], check=True, stdout=sys.stderr)
        for name in ("SASRec", "SASRecF", "FDSA"):
            theirs = Theirs.read(Path(folder) / f"{name}.npz")
            largest = float((our_outputs(name, theirs) - theirs.outputs).abs().max())
            rows.append([name, f"{largest:.1e}", f"{float(theirs.outputs.std()):.2f}"])
            if not largest <= LARGEST_DIFFERENCE:
                raise RuntimeError(f"{name}: outputs differ from RecBole's by up to {largest}")
    sizes = architecture_of(theirs, "item_trm_encoder")
    notes = _NOTES.format(
        histories=len(theirs.histories),
        length=theirs.histories.shape[1],
        data=config.data,
        values=features.num_values,
        feature=features.name,
        hidden=sizes.hidden_size,
        inner=sizes.inner_size,
        layers=sizes.num_layers,
        heads=HEADS,
    )
    line = command("same_networks.py", config)
    columns = ("network", "largest difference of an output", "standard deviation of the outputs")
    body = "\n\n".join(
        [
            conditions(line, own_versions("easrec", "torch"), "RecBole 1.2.1"),
            paragraph(notes),
            markdown_table(columns, rows),
        ]
    )
    print(body)
    write_section("The same networks", body)


if __name__ == "__main__":
    sys.exit(run_script(run, SameNetworksConfig))
