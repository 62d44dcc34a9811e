"""The two-layer perceptron of a transformer layer."""

import torch
from torch import Tensor, nn

from diptych.blocks.activations import ACTIVATIONS, Activation
from diptych.blocks.grouped import Rows, Weights, apply_experts


class FeedForward(nn.Module):
    """`fc2(activation(fc1(x)))`, both layers with bias; [..., width] -> [..., width].

    On a CPU it is worked on as an expert is, piece by piece: the activation costs half of what it costs
    between two layers of torch, and less is kept for the way back. It then has no second derivatives, and
    hooks of the two layers do not run.
    """

    def __init__(self, width: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.activation: Activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Apply the perceptron to every token."""
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            tokens = x.reshape(-1, x.shape[-1])
            first, second = self.fc1, self.fc2
            alone = Weights(first.weight[None], first.bias[None], second.weight[None], second.bias[None])
            return apply_experts(tokens, Rows((len(tokens),)), alone, self.activation).view(x.shape)
        out: Tensor = self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))
        return out
