"""How much each part of a hybrid counts: as the recipe says, by its learned uncertainty, or so that all learn at one pace."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class Balance(nn.Module, ABC):
    """The parts' losses → a factor of each, and what is added to the whole."""

    @abstractmethod
    def forward(self, losses: Mapping[str, Tensor], shared: Sequence[nn.Parameter]) -> dict[str, Tensor | float]:
        """A factor a part.

        Args:
            losses: of the parts that the batch speaks to, each weighted as its own specification says.
            shared: the last weights that all parts' answers come through.
        """

    def added(self, part: str) -> Tensor | None:
        """What a part that the batch speaks to adds to the whole."""
        return None

    def stepped(self) -> None:
        """What moves after the optimiser's step."""


class Fixed(Balance):
    """The recipe's weights, as they are."""

    def forward(self, losses: Mapping[str, Tensor], shared: Sequence[nn.Parameter]) -> dict[str, Tensor | float]:
        """1 each."""
        return dict.fromkeys(losses, 1.0)


class Uncertainty(Balance):
    """Homoscedastic uncertainty (Kendall et al. 2018, section 3.2): L / σ² + log σ, with s = log σ² learned by the stage's optimiser.

    This is the paper's term of a likelihood over classes. That of a mean square has ½ L / σ²: the same with σ² half as large, but for
    a constant. At the optimum σ² is twice the loss.
    """

    def __init__(self, parts: Sequence[str]) -> None:
        super().__init__()
        self.log_variance = nn.ParameterDict({part: nn.Parameter(torch.zeros(())) for part in parts})

    def forward(self, losses: Mapping[str, Tensor], shared: Sequence[nn.Parameter]) -> dict[str, Tensor | float]:
        """1 / σ² each."""
        return {part: torch.exp(-self.log_variance[part]) for part in losses}

    def added(self, part: str) -> Tensor:
        """() log σ."""
        return self.log_variance[part] / 2


class GradNorm(Balance):
    """Weights under which the parts' gradients on the shared weights are of one size, larger for a part that lags (Chen et al. 2018).

    With G_i the norm of part i's weighted gradient, r_i its loss over its first one, relative to the mean over the parts, weights go
    down Σ |G_i - mean(G) r_i^alpha| and are then scaled so that their sum is the number of parts. The paper takes Adam's steps of an
    absolute size; here each is by `rate` of the weight itself, up or down as the slope says: it means the same whatever the losses'
    units, and no weight falls below 0. It costs one more backward pass a part, from its loss to the shared weights (not through the
    encoders' trunks, but through early fusion's).

    Args:
        parts: names.
        alpha: how hard a part that lags is pulled; 0 for equal norms.
        rate: of the weights' steps, relative to themselves.
    """

    weights: Tensor
    first: Tensor

    def __init__(self, parts: Sequence[str], alpha: float, rate: float) -> None:
        super().__init__()
        self.parts, self.alpha, self.rate = list(parts), alpha, rate
        self.register_buffer("weights", torch.ones(len(self.parts)))
        self.register_buffer("first", torch.full((len(self.parts),), torch.nan))
        self.seen: list[tuple[list[int], Tensor, Tensor]] = []
        """Of each batch since the last step: which parts, the norms of their gradients, their losses."""

    def forward(self, losses: Mapping[str, Tensor], shared: Sequence[nn.Parameter]) -> dict[str, Tensor | float]:
        """The weights of the last step."""
        if self.training and torch.is_grad_enabled() and losses:
            norms = [gradient_norm(loss, shared) for loss in losses.values()]
            rows = [self.parts.index(part) for part in losses]
            self.seen.append((rows, torch.stack(norms), torch.stack([x.detach().float() for x in losses.values()])))
        return {part: float(self.weights[self.parts.index(part)]) for part in losses}

    @torch.no_grad()
    def stepped(self) -> None:
        """One step of the weights of the parts that were seen."""
        for rows, norms, losses in self.seen:
            self.first[rows] = torch.where(self.first[rows].isnan(), losses, self.first[rows])
            gone = losses / self.first[rows].clamp(min=torch.finfo(losses.dtype).tiny)
            weighted = self.weights[rows] * norms
            mean = weighted.mean()
            if mean > 0:
                wanted = mean * (gone / gone.mean()) ** self.alpha
                self.weights[rows] *= torch.exp(-self.rate * torch.sign(weighted - wanted))
        self.seen = []
        self.weights *= len(self.parts) / self.weights.sum()


def gradient_norm(loss: Tensor, shared: Sequence[nn.Parameter]) -> Tensor:
    """() of a loss's gradient on some weights; the graph is kept."""
    if not loss.requires_grad:
        return torch.zeros((), device=loss.device)
    slopes = torch.autograd.grad(loss, list(shared), retain_graph=True, allow_unused=True)
    squares = [s.detach().float().square().sum() for s in slopes if s is not None]
    return torch.stack(squares).sum().sqrt() if squares else torch.zeros((), device=loss.device)
