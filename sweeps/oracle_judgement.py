"""What a sweep found, beside all that there was to find."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table

from easrec.data.sequences import SplitData
from easrec.errors import InputError
from easrec.files import read_json
from easrec.models.architecture import CandidateSpace
from sweeps.oracle_tables import COST, RandomSearch, Truth, best_by_supernet, random_search
from sweeps.output import SWEEP

RESULTS = "results.parquet"
_SEARCH_COST = "search_flops"


@dataclass(frozen=True, slots=True)
class SeedJudgement:
    """A sweep's trials of one seed: one search for a front."""

    seed: int
    architectures: tuple[str, ...]
    """Those that were derived, the cheapest first."""
    regrets: dict[str, float]
    """Tradeoff -> accuracy lost at equal FLOPs, see `Truth.regret`."""
    share: float
    """Of the true front's hypervolume."""
    regret: float
    """See `Truth.mean_regret`."""
    search_flops: float
    """Spent on all searches of the seed; the warm-up, which every method here begins from, is not counted."""
    retrain_flops: float
    """Spent on its distinct retrainings."""
    random: RandomSearch
    """For the same FLOPs."""
    supernet_share: float
    """Share of as many architectures as were derived, chosen by the warm supernet alone, without a search."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A whole sweep."""

    seeds: tuple[SeedJudgement, ...]

    def mean(self, name: str) -> float:
        """The mean over seeds of a field."""
        return float(np.mean([getattr(seed, name) for seed in self.seeds]))


def read_sweep(path: Path, data: SplitData, space: CandidateSpace) -> pd.DataFrame:
    """The finished trials of a sweep that an oracle of this space and data can judge.

    Raises:
        InputError: its data are others, it derived what is not in the space, it does not say what it
            spent, or nothing in it has finished.
    """
    checksum = read_json(path / SWEEP)["settings"].get("data checksum")
    if checksum != data.checksum:
        raise InputError(
            f"--sweeps {path} was run on other data or another split; give the oracle the options of that "
            "sweep"
        )
    frame = pd.read_parquet(path / RESULTS)
    frame = frame[frame["status"] == "finished"]
    if frame.empty:
        raise InputError(f"--sweeps {path} has no trial that finished")
    known = {architecture.architecture_id for architecture in space.architectures()}
    if foreign := sorted(set(frame["architecture_id"]) - known):
        raise InputError(
            f"--sweeps {path} derived {foreign[0]}, which is not in the space; give the oracle the "
            "options of that sweep"
        )
    if _SEARCH_COST not in frame.columns or frame[_SEARCH_COST].isna().any():
        raise InputError(
            f"--sweeps {path} does not say what its searches cost ({_SEARCH_COST}): an earlier version "
            "wrote it; run it again"
        )
    return frame


def judge(sweep: pd.DataFrame, truth: Truth, *, draws: int, seed: int) -> Judgement:
    """Compare a sweep, seed by seed, with the truth and with random search at equal cost.

    Args:
        sweep: what `read_sweep` returned.
        truth: the space.
        draws: random searches to compare with.
        seed: of the draws.
    """
    found = []
    for number, trials in sweep.groupby("seed"):
        distinct = trials.drop_duplicates("architecture_id").sort_values("flops")
        architectures = tuple(distinct["architecture_id"])
        search, retraining = float(trials[_SEARCH_COST].sum()), float(distinct[COST].sum())
        share = truth.hypervolume_share(architectures)
        found.append(
            SeedJudgement(
                seed=int(str(number)),
                architectures=architectures,
                regrets={
                    f"{row['tradeoff']:g}": truth.regret(row["architecture_id"])
                    for row in trials.sort_values("tradeoff").to_dict("records")
                },
                share=share,
                regret=truth.mean_regret(architectures),
                search_flops=search,
                retrain_flops=retraining,
                random=random_search(truth, search + retraining, share=share, draws=draws, seed=seed),
                supernet_share=truth.hypervolume_share(best_by_supernet(truth, len(architectures))),
            )
        )
    return Judgement(tuple(found))


def judgement_table(judgement: Judgement) -> Table:
    """One row per seed, then the means; shares are of the true front's hypervolume."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in (
        "seed",
        "derived",
        "share",
        "regret",
        "PFLOPs",
        "random finds",
        "share",
        "5 to 95 %",
        "regret",
        "beaten",
        "supernet alone",
    ):
        table.add_column(name, justify="right")
    for seed in judgement.seeds:
        random = seed.random
        table.add_row(
            str(seed.seed),
            str(len(seed.architectures)),
            f"{seed.share:.1%}",
            f"{seed.regret:.4f}",
            f"{(seed.search_flops + seed.retrain_flops) / 1e15:.3f}",
            f"{random.num_architectures:.1f}",
            f"{random.share:.1%}",
            f"{random.share_low:.1%} to {random.share_high:.1%}",
            f"{random.regret:.4f}",
            f"{random.beaten:.0%}",
            f"{seed.supernet_share:.1%}",
        )
    if len(judgement.seeds) > 1:
        randoms = [seed.random for seed in judgement.seeds]
        table.add_row(
            "mean",
            f"{np.mean([len(seed.architectures) for seed in judgement.seeds]):.1f}",
            f"{judgement.mean('share'):.1%}",
            f"{judgement.mean('regret'):.4f}",
            f"{(judgement.mean('search_flops') + judgement.mean('retrain_flops')) / 1e15:.3f}",
            f"{np.mean([random.num_architectures for random in randoms]):.1f}",
            f"{np.mean([random.share for random in randoms]):.1%}",
            "",
            f"{np.mean([random.regret for random in randoms]):.4f}",
            f"{np.mean([random.beaten for random in randoms]):.0%}",
            f"{judgement.mean('supernet_share'):.1%}",
            style="bold",
        )
    return table
