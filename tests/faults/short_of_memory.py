"""One trial in a process that may take only so much more memory than it has when it begins to train.

`python -m tests.faults.short_of_memory DIRECTORY MIB` prints a JSON object: the sequences that each stage
computed at once in the end, and its NDCG, or why it failed.
"""

import json
import resource
import sys
from pathlib import Path

import torch

from easrec.data.sequences import leave_one_out
from easrec.data.synthetic import synthetic_interactions
from easrec.models.architecture import CandidateSpace
from easrec.nas.search import SearchConfig
from easrec.retrain import RetrainConfig
from sweeps.records import smaller_micro_batches, trial_record
from sweeps.store import Store, StoredFailureError
from sweeps.trial import TrialConfig, run_trial, warm_stage

MIB = 2**20


def data_mib() -> float:
    """What RLIMIT_DATA counts of this process, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("Linux says how much data a process has")


def main(directory: Path, more_mib: float) -> dict[str, object]:
    """Run the trial on a store in the directory."""
    torch.set_num_threads(1)
    # An optimizer has torch load its compiler, 70 MiB of code; what is short here is memory for batches.
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    data = leave_one_out(synthetic_interactions(300, 200, 60, seed=0))
    trial = TrialConfig(
        space=CandidateSpace(64, 256, 4, 4, (0.0, 0.5), (0.0, 0.5)),
        search=SearchConfig(
            tradeoff=0.1, max_length=50, warmup_epochs=1, search_epochs=1, batch_size=256, dropout=0.0
        ),
        retrain=RetrainConfig(max_length=50, max_epochs=1, batch_size=256, dropout=0.0),
        transfer_from="warm",
        data_checksum=data.checksum,
        code_version="code",
        device="cpu",
        threads=1,
        warmup_threads=1,
    )
    store = Store(directory)
    if more_mib > 0:
        most = int((data_mib() + more_mib) * MIB)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    try:
        warm_stage(trial, data, store)
        run_trial(trial, data, store)
    except StoredFailureError as error:
        return {"error": str(error)}
    record = trial_record(trial, data, store, settings={}, tags={})
    assert record is not None
    return {
        "micro_batches": smaller_micro_batches(trial, store),
        "trial_id": record.trial_id,
        "params": {name: value for name, value in record.params.items() if "micro_batch" in name},
        "losses": [
            point[2] for stage in ("warmup", "search", "retrain") for point in record.curves[f"{stage}/loss"]
        ],
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), float(sys.argv[2]))))
