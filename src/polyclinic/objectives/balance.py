"""How much each part of a hybrid counts: as the recipe says, by its learned uncertainty, or so that all learn at one pace."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from .gather import over_ranks


class Balance(nn.Module, ABC):
    """The parts' losses → a factor of each, and what is added to the whole.

    Attributes:
        measures: whether it looks at gradients, which are of a whole step.
    """

    measures: ClassVar[bool] = False

    @abstractmethod
    def forward(
        self, losses: Mapping[str, Tensor], shared: Sequence[nn.Parameter], share: float = 1.0, world: int = 1
    ) -> dict[str, Tensor | float]:
        """A factor a part.

        Args:
            losses: of the parts that the batch speaks to, each weighted as its own specification says.
            shared: the last weights that all parts' answers come through.
            share: of the step's patients, those of the batch.
            world: how many processes share the step.
        """

    def added(self, part: str) -> Tensor | None:
        """What a part that the batch speaks to adds to the whole."""
        return None

    def stepped(self) -> None:
        """What moves after the optimiser's step."""


class Fixed(Balance):
    """The recipe's weights, as they are."""

    def forward(
        self, losses: Mapping[str, Tensor], shared: Sequence[nn.Parameter], share: float = 1.0, world: int = 1
    ) -> dict[str, Tensor | float]:
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

    def forward(
        self, losses: Mapping[str, Tensor], shared: Sequence[nn.Parameter], share: float = 1.0, world: int = 1
    ) -> dict[str, Tensor | float]:
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

    Where a step is divided, each part's gradient is the sum of its pieces', weighed by their patients as the optimiser's is, and the norm
    is that of the sum: norms of the pieces would tell of their noise.

    Args:
        parts: names.
        alpha: how hard a part that lags is pulled; 0 for equal norms.
        rate: of the weights' steps, relative to themselves.
    """

    measures = True
    weights: Tensor
    first: Tensor

    def __init__(self, parts: Sequence[str], alpha: float, rate: float) -> None:
        super().__init__()
        self.parts, self.alpha, self.rate = list(parts), alpha, rate
        self.register_buffer("weights", torch.ones(len(self.parts)))
        self.register_buffer("first", torch.zeros(len(self.parts)))  # 0: none yet; averages are made of it, so no NaN
        self.seen, self.world = list[Tensor](), 1
        """Of each batch since the last step (p m + 2): of each part its gradient on the shared weights, its loss, and 1 where it
        speaks; all of them times the batch's share of the step."""

    def forward(
        self, losses: Mapping[str, Tensor], shared: Sequence[nn.Parameter], share: float = 1.0, world: int = 1
    ) -> dict[str, Tensor | float]:
        """The weights of the last step."""
        if self.training and torch.is_grad_enabled():
            made = self.weights.new_zeros(len(self.parts), sum(w.numel() for w in shared) + 2)
            for part, loss in losses.items():
                made[self.parts.index(part)] = torch.cat(
                    [slope(loss, shared), loss.detach().float()[None], made.new_ones(1)]
                )
            made *= share
            self.seen, self.world = [made + self.seen[0] if self.seen else made], world
        return {part: float(self.weights[self.parts.index(part)]) for part in losses}

    @torch.no_grad()
    def measured(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of the step: (k,) which parts speak, (k,) the norms of their gradients, (k,) their losses, each over the pieces that speak."""
        whole = over_ranks(self.seen[0], self.world)
        rows = torch.nonzero(whole[:, -1] > 0).flatten()
        return rows, whole[rows, :-2].norm(dim=1), whole[rows, -2] / whole[rows, -1]

    @torch.no_grad()
    def stepped(self) -> None:
        """One step of the weights of the parts that were seen."""
        if not self.seen:
            return
        rows, norms, losses = self.measured()
        self.seen = []
        self.first[rows] = torch.where(self.first[rows] == 0, losses, self.first[rows])
        gone = losses / self.first[rows].clamp(min=torch.finfo(losses.dtype).tiny)
        weighted = self.weights[rows] * norms
        mean = weighted.mean()
        if mean > 0:
            wanted = mean * (gone / gone.mean()) ** self.alpha
            self.weights[rows] *= torch.exp(-self.rate * torch.sign(weighted - wanted))
        self.weights *= len(self.parts) / self.weights.sum()


def slope(loss: Tensor, shared: Sequence[nn.Parameter]) -> Tensor:
    """(m,) float32, a loss's gradient on some weights, one after the other; the graph is kept."""
    none = [torch.zeros(w.numel(), device=loss.device) for w in shared]
    if not loss.requires_grad:
        return torch.cat(none)
    slopes = torch.autograd.grad(loss, list(shared), retain_graph=True, allow_unused=True)
    return torch.cat(
        [zero if s is None else s.detach().float().flatten() for s, zero in zip(slopes, none, strict=True)]
    )
