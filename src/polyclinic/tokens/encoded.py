"""A batch as it has been read so far: what several ask of it is encoded once, and what nobody asks of it is not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import torch

from ..schema import Modality, Tokens


class Encoded(Mapping[Modality, Tokens]):
    """Modality → its bridged tokens. A modality is encoded when it is first asked for, and once.

    Gradients are taken where they were when this was made, whoever asks first.

    Args:
        there: the modalities that the batch has and the model reads.
        read: encodes one, as `Encoder.ended` does.
        bridge: an encoder's tokens → those in the fusion's width.
    """

    def __init__(
        self, there: Sequence[Modality], read: Callable[[Modality], tuple[Tokens, Tokens]],
        bridge: Callable[[Modality, Tokens], Tokens],
    ) -> None:  # fmt: skip
        self._there, self._read, self._bridge, self._grad = tuple(there), read, bridge, torch.is_grad_enabled()
        self._ended = dict[Modality, tuple[Tokens, Tokens]]()
        self._bridged = dict[tuple[Modality, int], Tokens]()

    def own(self, modality: Modality) -> Tokens:
        """The encoder's own tokens, in its width.

        Raises:
            KeyError: the batch has none of the modality, or no encoder reads it.
        """
        if modality not in self._there:
            raise KeyError(modality)
        if modality not in self._ended:
            with torch.set_grad_enabled(self._grad):
                self._ended[modality] = self._read(modality)
        return self._ended[modality][0]

    def __getitem__(self, modality: Modality) -> Tokens:
        self.own(modality)
        return self._bridge_once(modality, 0)

    def ends(self, modality: Modality) -> Tokens:
        """The bridged tokens that its records are compared by: all, but of an encoder that has some for that; raises as `own`."""
        own = self.own(modality)
        return self._bridge_once(modality, 0 if self._ended[modality][1] is own else 1)

    def _bridge_once(self, modality: Modality, which: int) -> Tokens:
        if (modality, which) not in self._bridged:
            with torch.set_grad_enabled(self._grad):
                self._bridged[modality, which] = self._bridge(modality, self._ended[modality][which])
        return self._bridged[modality, which]

    def __contains__(self, modality: object) -> bool:
        return modality in self._there

    def __iter__(self) -> Iterator[Modality]:
        return iter(self._there)

    def __len__(self) -> int:
        return len(self._there)


def compared(tokens: Mapping[Modality, Tokens], named: Collection[Modality] = ()) -> dict[Modality, Tokens]:
    """The tokens that records are compared by: `Encoded.ends` of a batch that was read, other tokens as they are.

    Args:
        tokens: of each modality.
        named: the modalities that are wanted; all where empty.
    """
    of = tokens.ends if isinstance(tokens, Encoded) else tokens.__getitem__
    return {m: of(m) for m in tokens if not named or m in named}
