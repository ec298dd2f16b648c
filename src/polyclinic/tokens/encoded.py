"""A batch as it has been read so far: what several ask of it is encoded once, and what nobody asks of it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from ..schema import Modality, Tokens


class Encoded(Mapping[Modality, Tokens]):
    """Modality → its bridged tokens. A modality is encoded when it is first asked for, and once.

    Gradients are taken where they were when this was made, whoever asks first.

    Args:
        there: the modalities that the batch has and the model reads.
        read: encodes one.
        bridge: an encoder's tokens → those in the fusion's width.
    """

    def __init__(
        self, there: Sequence[Modality], read: Callable[[Modality], Tokens], bridge: Callable[[Modality, Tokens], Tokens]
    ) -> None:  # fmt: skip
        self._there, self._read, self._bridge, self._grad = tuple(there), read, bridge, torch.is_grad_enabled()
        self._own, self._bridged = dict[Modality, Tokens](), dict[Modality, Tokens]()

    def own(self, modality: Modality) -> Tokens:
        """The encoder's own tokens, in its width.

        Raises:
            KeyError: the batch has none of the modality, or no encoder reads it.
        """
        if modality not in self._there:
            raise KeyError(modality)
        if modality not in self._own:
            with torch.set_grad_enabled(self._grad):
                self._own[modality] = self._read(modality)
        return self._own[modality]

    def __getitem__(self, modality: Modality) -> Tokens:
        if modality not in self._bridged:
            own = self.own(modality)
            with torch.set_grad_enabled(self._grad):
                self._bridged[modality] = self._bridge(modality, own)
        return self._bridged[modality]

    def __contains__(self, modality: object) -> bool:
        return modality in self._there

    def __iter__(self) -> Iterator[Modality]:
        return iter(self._there)

    def __len__(self) -> int:
        return len(self._there)
