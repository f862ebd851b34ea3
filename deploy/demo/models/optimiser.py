"""The optimiser: orthogonalised momentum for matrices, AdamW for everything else."""

from __future__ import annotations

import model
import torch
from torch import Tensor, nn

MOMENTUM = 0.95
WEIGHT_DECAY = 0.05
CLIP_NORM = 1.0


def orthogonalise(gradient: Tensor, steps: int = 5) -> Tensor:
    """Move the singular values of a matrix close to one (Newton-Schulz iteration).

    Parameters
    ----------
    gradient : Tensor
        A matrix.
    steps : int
        The number of iterations.

    Returns
    -------
    Tensor
        A matrix of the same shape.
    """
    tall = gradient.shape[0] > gradient.shape[1]
    current: Tensor = gradient / (gradient.norm() + 1e-7)
    current = current.T if tall else current
    for _ in range(steps):
        square = current @ current.T
        factor = torch.addmm(square, square, square, beta=-4.7750, alpha=2.0315)
        current = torch.addmm(current, factor, current, beta=3.4445)
    return current.T if tall else current


class Optimiser:
    """Muon for the linear layers and AdamW for the embedding and the norms.

    Parameters
    ----------
    net : model.Transformer
        The model to train.
    """

    def __init__(self, net: model.Transformer) -> None:
        self._all = list(net.parameters())
        linear = [module.weight for module in net.modules() if isinstance(module, nn.Linear)]
        taken = {id(weight) for weight in linear}
        others = [weight for weight in self._all if id(weight) not in taken]
        self._matrices = [(weight, torch.zeros_like(weight)) for weight in linear]
        self._adam = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0, fused=True)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Update the parameters from their gradients and clear these.

        Parameters
        ----------
        rate : float
            The learning rate.
        """
        nn.utils.clip_grad_norm_(self._all, CLIP_NORM)
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.step()
        for weight, momentum in self._matrices:
            assert weight.grad is not None
            momentum.lerp_(weight.grad, 1.0 - MOMENTUM)
            update = orthogonalise(weight.grad.lerp(momentum, MOMENTUM))
            scale = 0.2 * max(weight.shape) ** 0.5
            weight.mul_(1.0 - rate * WEIGHT_DECAY).add_(update, alpha=-rate * scale)
        for weight in self._all:
            weight.grad = None
