"""SASRecF's inputs and FDSA's forward pass, one sequence, one position and one value after the other."""

import torch

from easrec.models.packing import Packing


def _norm(row, module):
    centred = row - row.mean()
    return centred / (centred.square().mean() + 1e-12).sqrt() * module.weight + module.bias


def _values(network, item):
    return [value for value in network.item_values[item].tolist() if value > 0]


def _layers(layers, rows):
    x, packing = rows, Packing(torch.ones(1, len(rows), dtype=torch.bool))
    for layer in layers:
        x = layer(x, rows, packing)
    return x


def sasrecf_outputs(network, item_ids):
    """Outputs (N, D) of an unpadded sequence."""
    rows = []
    for position, item in enumerate(item_ids.tolist()):
        values = _values(network, item)
        pooled = torch.zeros_like(network.item_embedding.weight[0])
        for value in values:
            pooled = pooled + network.value_embedding.weight[value] / len(values)
        joined = torch.cat([network.item_embedding.weight[item], pooled])
        fused = network.fusion.weight @ joined + network.fusion.bias
        rows.append(_norm(fused + network.position_embedding.weight[position], network.embedding_norm))
    return _layers(network.layers, torch.stack(rows))


def fdsa_outputs(network, item_ids):
    """Outputs (N, D) of an unpadded sequence."""
    items, features = [], []
    for position, item in enumerate(item_ids.tolist()):
        at = network.position_embedding.weight[position]
        items.append(_norm(network.item_embedding.weight[item] + at, network.embedding_norm))
        pooled = torch.zeros_like(at)
        scores = []
        for value in _values(network, item):
            hidden = network.value_attention.weight @ network.value_embedding.weight[value]
            scores.append(network.value_score[0] @ (hidden + network.value_attention.bias).clamp_min(0))
        total = sum(torch.exp(score) for score in scores)
        for value, score in zip(_values(network, item), scores, strict=True):
            pooled = pooled + torch.exp(score) / total * network.value_embedding.weight[value]
        features.append(_norm(pooled + at, network.feature_norm))
    outputs = [
        _layers(network.layers, torch.stack(items)),
        _layers(network.feature_layers, torch.stack(features)),
    ]
    return torch.cat(outputs, dim=1) @ network.joining.weight.T + network.joining.bias
