"""What Ray runs for the oracle: one architecture of a space, scored by the warm supernet and retrained."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from easrec.data.sequences import SplitData
from easrec.evaluation.protocols import evaluate, selection_protocol
from easrec.models.architecture import Architecture
from easrec.nas.supernet import Supernet
from sweeps.gpu_share import limit_memory
from sweeps.store import OnBusy, Store, Workspace, content_key
from sweeps.trainable import SharedData, report_status
from sweeps.trial import SUPERNET, TrialConfig, retrain_stage


@dataclass(frozen=True, slots=True)
class Member:
    """An architecture of a space and a seed."""

    trial: TrialConfig
    """Settings of the warm-up and the retraining; its tradeoff plays no part."""
    architecture: Architecture

    @property
    def retrain_key(self) -> str:
        """Key of the retraining: that of a sweep's trial which derives the architecture."""
        return self.trial.retrain_key(self.architecture)

    @property
    def score_key(self) -> str:
        """Key of the accuracy read off the warm supernet."""
        return content_key({"retrain": self.retrain_key, "read off": self.trial.warm_key})

    @property
    def trial_id(self) -> str:
        """Key of both."""
        return content_key({"member": self.retrain_key})

    @property
    def label(self) -> str:
        """How people call it."""
        sizes = self.architecture
        return f"{sizes.num_layers} x {sizes.hidden_size}/{sizes.inner_size}, seed {self.trial.seed}"


def score_stage(member: Member, data: SplitData, store: Store) -> float:
    """Validation NDCG@10 of a member with the warm supernet's weights; the warm-up must be there."""
    supernet = store.entry("warm", member.trial.warm_key).path(SUPERNET)

    def compute(workspace: Workspace) -> dict[str, Any]:
        network = Supernet.load(supernet, device=member.trial.device).extract(member.architecture)
        protocol = selection_protocol(data)
        figures = evaluate(
            network.scores,
            data,
            "valid",
            max_length=member.trial.search.max_length,
            protocols=(protocol,),
            device=member.trial.device,
        )
        return {"ndcg_at_10": figures[f"{protocol}/ndcg_at_10"]}

    value: float = store.get_or_compute("supernet-score", member.score_key, compute)["ndcg_at_10"]
    return value


def train_member(
    config: Mapping[str, Any],
    *,
    trials: Mapping[str, Member],
    data: SharedData,
    store: Store,
    on_busy: OnBusy,
    share: float | None,
) -> None:
    """The function trainable of the oracle; see `sweeps.trainable.train`."""
    member = trials[config["trial"]]
    torch.set_num_threads(member.trial.threads)
    limit_memory(member.trial.device, share)
    own, split = store.owned_by(f"oracle {member.trial_id}"), data.get()

    def work() -> None:
        score_stage(member, split, own)
        retrain_stage(member.trial, member.architecture, split, own, on_busy=on_busy)

    report_status(work)
