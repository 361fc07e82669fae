import torch

from easrec.evaluation.layer_latency import layer_latencies_ms
from easrec.models.architecture import CandidateSpace


def test_a_much_larger_layer_takes_longer_and_no_draw_of_the_caller_moves():
    space = CandidateSpace(256, 1024, 1, 2, (0, 0.984375), (0, 0.984375))  # 256 and 4 hidden dimensions
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    large, small = layer_latencies_ms(space, 400, repeats=10)
    assert torch.equal(torch.rand(3), expected)
    assert large > 2 * small > 0
