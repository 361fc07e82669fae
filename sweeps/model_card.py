"""The model card of an exported network: Markdown with a front matter that model hubs read."""

import dataclasses
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easrec.data.items import Items
from easrec.data.sequences import SplitData
from easrec.evaluation.protocols import PROTOCOLS
from easrec.models.transformer import SequentialRecommender
from sweeps.config import SweepConfig
from sweeps.intervals import LEVEL, RESAMPLES, SEED, Estimate
from sweeps.records import flatten
from sweeps.source import Trained

METRICS = {"ndcg_at_10": "NDCG@10", "recall_at_10": "Recall@10", "mrr_at_10": "MRR@10"}
_SPLITS = {"valid": "validation (chose the network)", "test": "test"}
_COMPETITORS = {
    "full": "all items",
    "unseen": "all items but the user's history",
    "uni100": "100 items drawn uniformly from those not in the history",
    "pop100": "100 items drawn by their popularity in training",
}
_ORIGINS = {
    "warm": "its weights in the warm supernet of its seed",
    "searched": "its weights in the supernet of its search",
    "fresh": "fresh weights",
}
_SPLIT_TEXTS = {
    "leave_one_out": "Each user's last item is the test target, the last but one the validation target, the "
    "rest is for training.",
    "temporal": "What happened before {valid_from} is for training, what happened from then on and before "
    "{test_from} is asked at validation, what happened from then on at test; these are times of the log, the "
    "same for all users.",
}
_SPLIT_LIMITS = {
    "leave_one_out": "The figures above come from splitting that log, each user by their own order: some "
    "training lies later in\n  time than some test targets, and nothing",
    "temporal": "The figures above come from the end of that log, which training has not seen; nothing",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CardFacts:
    """What a card says."""

    trained: Trained
    """The network and its recorded figures."""
    model: SequentialRecommender
    """The network itself."""
    items: Items
    data: SplitData
    licence: str
    """Terms of use of the data."""
    estimates: Mapping[str, Estimate]
    """What `accuracy_estimates` gave."""
    config: SweepConfig
    """Options of the sweep."""
    settings: Mapping[str, Any]
    """Settings of the search and the retraining, nested."""
    sweep_id: str
    run_id: str | None
    """Its run in MLflow, if it has one."""
    reason: str
    """Why this network was taken out of the sweep."""


def model_card(facts: CardFacts) -> str:
    """The text of README.md; equal facts give equal bytes."""
    architecture = facts.trained.architecture
    sizes = f"{architecture.hidden_size}/{architecture.inner_size}"
    title = f"{architecture.num_layers} x {sizes} on {facts.data.name}"
    sections = [
        _front_matter(facts, title),
        f"# easrec, {title}\n\nA sequential recommender: given the items of a user's history, from old to "
        f"new, it ranks the {facts.items.num_items:,} items of the data set by how likely each comes next.",
        _use(facts),
        _data(facts),
        _architecture(facts),
        _making(facts),
        _accuracy(facts),
        _cost(facts),
        _limits(facts),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(facts: CardFacts, title: str) -> str:
    """YAML between lines of dashes; values are written as JSON, which is YAML too."""
    lines = [
        "---",
        "library_name: easrec",
        "license: other",
        "license_name: terms-of-the-training-data",
        "tags: [recommendation, sequential-recommendation, linear-attention, onnx]",
        f"datasets: [{_json(facts.data.name)}]",
        "model-index:",
        f"- name: {_json(title)}",
        "  results:",
    ]
    for split in _SPLITS:
        dataset = {"type": facts.data.name, "name": facts.data.name, "split": split}
        lines += [
            "  - task: {type: sequential-recommendation, name: next item}",
            f"    dataset: {_json(dataset)}",
            "    metrics:",
        ]
        for name, estimate in facts.estimates.items():
            if name.startswith(f"{split}/"):
                _, protocol, metric = name.split("/")
                interval = [round(estimate.low, 6), round(estimate.high, 6)]
                lines.append(
                    f"    - {{type: {metric}, name: {_json(f'{METRICS[metric]}, {protocol}')}, "
                    f"value: {round(estimate.value, 6)}, interval: {interval}}}"
                )
    return "\n".join([*lines, "---"])


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _use(facts: CardFacts) -> str:
    known = [
        own_id
        for own_id, count in zip(facts.items.own_ids[1:], facts.items.training_counts[1:], strict=True)
        if count
    ]
    history = [own_id if facts.items.are_texts else int(own_id) for own_id in known[:3]]
    return f"""## Use

```python
from easrec.serving import Recommender

recommender = Recommender.load("this/folder")
answer = recommender.recommend([{history!r}], k=10)
print(answer.items[0], answer.scores[0])
```

Items go by their ids in the data set, which are {"texts" if facts.items.are_texts else "whole numbers"}.
`model.onnx` is the same network for ONNX Runtime, on items 1 to {facts.items.num_items:,} (`items.parquet`
says which those are); `signature.json` is what the MLflow model takes and gives. Loading checks the
checksums in `manifest.json` and unpickles nothing."""


def _data(facts: CardFacts) -> str:
    statistics = facts.data.statistics
    rows = [
        ("data set", facts.data.name),
        ("users", f"{facts.data.num_users:,}"),
        ("items", f"{facts.data.num_items:,}"),
        ("interactions", f"{len(facts.data.items):,}"),
        ("interactions per user", f"{statistics['mean_length']:.1f}"),
        ("users dropped, with too few interactions", f"{int(statistics['dropped_users']):,}"),
        ("test targets that never occur in training", f"{100 * statistics['cold_test_share']:.1f} %"),
        ("sha256 of the split log", f"`{facts.data.checksum}`"),
        ("terms of the data", facts.licence),
    ]
    return (
        "## Data\n\n"
        + _table(("", ""), rows)
        + "\n\n"
        + _SPLIT_TEXTS[facts.config.split].format(**statistics)
    )


def _architecture(facts: CardFacts) -> str:
    architecture, model = facts.trained.architecture, facts.model
    attention: str = architecture.attention
    if attention != "softmax":
        attention += f", keys normalised by {architecture.key_norm}"
    rows = [
        ("architecture", f"`{architecture.architecture_id}`"),
        ("layers", architecture.num_layers),
        ("hidden dimensions", architecture.hidden_size),
        ("inner dimensions of the feed-forward networks", architecture.inner_size),
        ("attention heads", architecture.num_heads),
        ("attention", attention),
        ("dense layers of each gate", architecture.gate_layers),
        ("positions", model.max_length),
        ("dropout in training", model.dropout),
    ]
    return "## Architecture\n\n" + _table(("", ""), rows)


def _making(facts: CardFacts) -> str:
    trained = facts.trained
    if trained.trial_id is None:
        how = (
            "No search of the sweep derived it: it was named by its size and retrained as the sweep retrains "
            f"its own, with seed {trained.seed}"
        )
    else:
        how = (
            f"A search with lambda {trained.tradeoff:g} and seed {trained.seed} derived it (trial "
            f"`{trained.trial_id}`), and it was retrained alone"
        )
    # Where the sweep's files were is nobody's business here.
    words = shlex.split(_options(facts.config))
    command = shlex.join(["python", "pipelines/lambda_sweep.py", *words])
    run = "" if facts.run_id is None else f" MLflow run `{facts.run_id}`."
    settings = [(f"`{name}`", value) for name, value in flatten(facts.settings).items()]
    return f"""## How it was made

{how}, from {_ORIGINS[trained.transfer_from]}.
Why this one of the sweep's: {facts.reason}.
easrec {trained.program}, sweep `{facts.sweep_id}`.{run}

```bash
{command}
```

<details><summary>Settings</summary>

{_table(("setting", "value"), settings)}

</details>"""


def _options(config: SweepConfig) -> str:
    """The options of a sweep that are not at their defaults, as a shell text; paths by their last part."""
    bare = dataclasses.replace(
        config,
        output=None,
        resume=False,
        ray_address="local",
        data=None if config.data is None else Path(config.data.name),
    )
    return shlex.join(shlex.split(bare.command())[2:])


def _accuracy(facts: CardFacts) -> str:
    rows = []
    for split, label in _SPLITS.items():
        for protocol in PROTOCOLS:
            cells = [facts.estimates.get(f"{split}/{protocol}/{name}") for name in METRICS]
            if all(cell is not None for cell in cells):
                rows.append(
                    (label, f"`{protocol}`", *(_interval(cell) for cell in cells if cell is not None))
                )
    competitors = "; ".join(f"`{name}`: {text}" for name, text in _COMPETITORS.items())
    return f"""## Accuracy

{_table(("split", "protocol", *METRICS.values()), rows)}

In brackets: {100 * LEVEL:g} % intervals, percentile bootstrap over users ({RESAMPLES:,} resamples,
seed {SEED}). They say how a figure may differ for other users like these; another seed of training is a
further source of differences. Validation figures chose the epoch and the network, and so flatter it; test
figures chose nothing. The protocol says what a target is ranked against, and a tie counts against the
target. {competitors}."""


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.4f} ({estimate.low:.4f} to {estimate.high:.4f})"


def _cost(facts: CardFacts) -> str:
    metrics, threads = facts.trained.metrics, facts.config.latency_threads
    per = f"{threads} CPU thread{'s' * (threads > 1)}"

    def milliseconds(name: str) -> str:
        return f"{metrics[name]:.2f} ms" if name in metrics else "not measured"

    def mebibytes(name: str) -> str:
        return f"{metrics[name]:.1f} MiB" if name in metrics else "not measured"

    rows = [
        (f"FLOPs of one pass over {facts.model.max_length} items", f"{int(metrics['flops']):,}"),
        ("the same with scoring all items", f"{int(metrics['flops_total']):,}"),
        ("parameters", f"{int(metrics['params']):,}"),
        ("weights", mebibytes("weights_mib")),
        (f"latency of one request, p50 ({per})", milliseconds("latency_ms_p50")),
        (f"latency of one request, p95 ({per})", milliseconds("latency_ms_p95")),
        (f"the same as this package serves it, p50 ({per})", milliseconds("served_ms_p50")),
        (
            f"one more item into the state of a user, p50 ({per})",
            "no state: the history is read"
            if metrics.get("update_ms_p50") == 0
            else milliseconds("update_ms_p50"),
        ),
        ("peak memory of serving, above the libraries", mebibytes("peak_memory_mib")),
    ]
    return (
        "## Cost\n\n"
        + _table(("", ""), rows)
        + "\n\nA multiply-add counts as two FLOPs. Latency and memory were measured "
        "where it was trained: a full history in, ten item ids out, in torch; as this package serves it, on "
        "a CPU in ONNX Runtime, and from the state of the user where the attention has one."
    )


def _limits(facts: CardFacts) -> str:
    untrained = int((facts.items.training_counts[1:] == 0).sum())
    streamed = ""
    if facts.trained.architecture.attention == "linear":
        fewest = facts.model.max_length // 2 + 1
        streamed = f";\n  of one that is kept as a state, the last {fewest} to {facts.model.max_length}"
    return f"""## Limits

- New items: it recommends only the {facts.items.num_items:,} items above. {untrained:,} of them never occur
  in training: it knows them as wrong answers alone and hardly ever recommends them. An id that it does not
  know is left out of a history and reported. New items need a new training.
- New users: an empty history, or one of unknown items alone, is answered by popularity in training, and
  marked so (`by_popularity`; scores are then counts).
- Long histories: of a history that is given whole, the last {facts.model.max_length} items count{streamed}.
- It learned from what the users of one log did, popular items above all, and repeats the biases of that log.
  {_SPLIT_LIMITS[facts.config.split]} is said about what people do once they see recommendations. Test
  it on your own users.
- It is not for decisions about people, nor for catalogues where a wrong item does harm.
- What may be done with it depends on the terms of the data."""


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )
