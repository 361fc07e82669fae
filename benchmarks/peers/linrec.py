"""LinRec's linear attention in RecBole's SASRec; runs in RecBole's environment.

LinRec publishes it as a changed copy of RecBole's source, not as a package. This is its formula, written for
these benchmarks: elu of queries and keys, each position divided by its L2 norm, Q (K^T V) / sqrt(D). As in
LinRec's code, the attention mask has no effect (every position sees all, padding too), and attention has no
dropout of its own.

Shapes: B sequences, N positions, D hidden size, H heads, E dimensions of a head.
"""

import torch.nn.functional as F
from recbole.model.layers import MultiHeadAttention
from recbole.model.sequential_recommender.sasrec import SASRec
from torch import Tensor


class LinearAttention(MultiHeadAttention):
    """RecBole's attention module, its softmax replaced."""

    def forward(self, input_tensor: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D); the mask is not looked at."""
        q_BHNE, k_BHNE, v_BHNE = (
            self.transpose_for_scores(layer(input_tensor)).permute(0, 2, 1, 3)
            for layer in (self.query, self.key, self.value)
        )
        q_BHNE, k_BHNE = (F.normalize(F.elu(x), dim=-1) for x in (q_BHNE, k_BHNE))
        state_BHEE = k_BHNE.transpose(-1, -2) @ v_BHNE
        context_BHNE = q_BHNE @ state_BHEE / self.sqrt_attention_head_size
        context = context_BHNE.transpose(1, 2).flatten(2)
        return self.LayerNorm(self.out_dropout(self.dense(context)) + input_tensor)


def with_linear_attention(model: SASRec) -> SASRec:
    """The same model, linear attention with the same weights in each of its layers."""
    for layer in model.trm_encoder.layer:
        linear = LinearAttention(
            model.n_heads,
            model.hidden_size,
            model.hidden_dropout_prob,
            model.attn_dropout_prob,
            model.layer_norm_eps,
        )
        linear.load_state_dict(layer.multi_head_attention.state_dict())
        layer.multi_head_attention = linear
    return model
