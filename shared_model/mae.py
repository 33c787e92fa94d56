"""The masked autoencoder for paired ECG and PPG; its layers are in `mae_layers`.

    patches -> encoder per modality -> shared bottleneck -> token outputs (128) -> mean pool
            -> fingerprint (128, unit norm); token outputs + fingerprint -> decoder per modality

An independent re-implementation in the style of M2AE (arXiv 2605.09579) and MAE (2111.06377), with
the decoder of CrossMAE (2401.14391): only what is hidden is decoded, by cross-attention.

Nothing here couples two windows: LayerNorm only, no dropout, no state, no random number. Patch
masks come from outside. Every layer runs once in a forward pass and every parameter sits in a leaf
layer with one input, so that Opacus hooks and torch.func both give per-patient gradients.

Axes, with `...` for any leading axes (window; or patient, segment):
    patches  float32 (..., channel=2, token=50, patch_sample=25)
    valid    bool    (..., channel=2, token=50)       really recorded and accepted
    hidden   bool    (..., mask, channel=2, token=50) not to be looked at; 25 a channel
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from shared_model import adapters
from shared_model.config import (
    CHANNELS,
    FINGERPRINT_SIZE,
    PATCH_SAMPLES,
    TOKENS,
    TRAINABLE,
    ModelConfig,
    Trainable,
)
from shared_model.errors import OurMistake, Refused
from shared_model.mae_layers import Block, bias_of, far_of, pool, sine_positions
from shared_model.patches import VISIBLE_TOKENS, draw_patch_masks
from shared_model.weights import Weights

__all__ = [
    "ECG", "PPG", "PRESETS", "MaskedAutoencoder", "Views", "build", "draw_patch_masks",
    "load_weights", "parameter_counts", "trainable_names", "weights_of",
]  # fmt: skip

PRESETS: dict[str, ModelConfig] = {
    "tiny": ModelConfig(
        preset="tiny", width=64, heads=4, encoder_blocks=2, bottleneck_blocks=2,
        decoder_width=48, decoder_blocks=2,
    ),
    "small": ModelConfig(
        preset="small", width=128, heads=4, encoder_blocks=3, bottleneck_blocks=1,
        decoder_width=112, decoder_blocks=2,
    ),
    "base": ModelConfig(
        preset="base", width=256, heads=8, encoder_blocks=4, bottleneck_blocks=2,
        decoder_width=192, decoder_blocks=2,
    ),
}  # fmt: skip

ECG, PPG = 0, 1
_DECODER_HEADS = 4
FINGERPRINT_FAR = 4.0
"""How far the fingerprint in a decoder's memory is from every place."""


class Views(NamedTuple):
    """What one training pass gives. View axis: the A patch masks, then ECG only, then PPG only.

    A decoder's query axis: 25 hidden tokens of each of the A masks, then all 50 tokens with that
    modality hidden as a whole.
    """

    fingerprint: Tensor
    """(..., view=A+2, 128) unit norm; zero where the view had no valid token."""
    predicted: tuple[Tensor, Tensor]
    """ECG, PPG: (..., query=25A+50, patch_sample)."""
    places: tuple[Tensor, Tensor]
    """ECG, PPG: which token each query is, int64 (..., query)."""
    counted: tuple[Tensor, Tensor]
    """ECG, PPG: bool (..., query): hidden, valid, and something valid was visible to answer it."""


class Encoder(nn.Module):
    """Patches of one modality -> tokens; each looks only at keys of its own view."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed = nn.Linear(PATCH_SAMPLES, config.width)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_ratio)
            for _ in range(config.encoder_blocks)
        )
        self.modality = nn.Linear(1, config.width, bias=False)

    def forward(self, patches: Tensor, positions: Tensor, bias: Tensor, far: Tensor) -> Tensor:
        x: Tensor = self.embed(patches) + positions  # (..., token, width)
        for block in self.blocks:
            x = block(x, bias, far)
        told: Tensor = x + self.modality(torch.ones_like(x[..., :1]))
        return told


class Decoder(nn.Module):
    """Mask tokens at hidden places ask the token outputs and the fingerprint of their view."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.decoder_width
        self.memory = nn.Linear(FINGERPRINT_SIZE, width)
        self.memory_norm = nn.LayerNorm(width)
        self.mask_token = nn.Linear(1, width, bias=False)
        self.blocks = nn.ModuleList(
            Block(width, _DECODER_HEADS, config.mlp_ratio) for _ in range(config.decoder_blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.to_patch = nn.Linear(width, PATCH_SAMPLES)

    def forward(
        self, outputs: Tensor, at_memory: Tensor, at_query: Tensor, bias: Tensor, far: Tensor
    ) -> Tensor:
        """outputs (..., key, 128), positions of keys and queries -> (..., query, patch_sample)."""
        context = self.memory_norm(self.memory(outputs) + at_memory)
        x = at_query + self.mask_token(torch.ones_like(at_query[..., :1]))
        for block in self.blocks:
            x = block(x, bias, far, context)
        patches: Tensor = self.to_patch(self.norm(x))
        return patches


class MaskedAutoencoder(nn.Module):
    """See the head of this file. Make it with `build`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleList(Encoder(config) for _ in CHANNELS)
        self.bottleneck = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_ratio)
            for _ in range(config.bottleneck_blocks)
        )
        self.fingerprint_norm = nn.LayerNorm(config.width)
        self.fingerprint_head = nn.Linear(config.width, FINGERPRINT_SIZE)
        self.decoders = nn.ModuleList(Decoder(config) for _ in CHANNELS)
        encoder_positions = sine_positions(config.width)
        # The decoder's memory also tells the two modalities apart, and both from the fingerprint.
        memory_positions = sine_positions(config.decoder_width, kinds=len(CHANNELS) + 1)
        self.register_buffer("encoder_positions", encoder_positions, persistent=False)
        self.register_buffer("memory_positions", memory_positions, persistent=False)
        self.encoder_positions: Tensor  # (token, width)
        self.memory_positions: Tensor  # (modality=3, token, decoder_width)

    def fingerprint(self, patches: Tensor, valid: Tensor) -> Tensor:
        """Fingerprint of whole windows, nothing hidden.

        Returns:
            (..., 128), unit norm; zero for a window without a valid token.
        """
        keys = [valid[..., channel, :] for channel in (ECG, PPG)]  # each (..., token)
        place = torch.arange(TOKENS, device=patches.device)  # (token,), the same for all windows
        tokens = [
            self.encoders[channel](
                patches[..., channel, :, :],
                self.encoder_positions,
                bias_of(keys[channel][..., None, :]),
                far_of(place, place),
            )
            for channel in (ECG, PPG)
        ]
        places = torch.cat([place, place], dim=-1)
        outputs = self._bottleneck(torch.cat(tokens, dim=-2), torch.cat(keys, dim=-1), places)
        return pool(outputs, torch.cat(keys, dim=-1))

    def forward(self, patches: Tensor, valid: Tensor, hidden: Tensor) -> Views:
        """One training pass over all views; axes at the head of this file."""
        masks = hidden.shape[-3]
        order = torch.argsort(hidden.to(torch.uint8), dim=-1, stable=True)  # visible tokens first
        seen, unseen = order[..., :VISIBLE_TOKENS], order[..., VISIBLE_TOKENS:]
        everywhere = torch.arange(TOKENS, device=patches.device)

        tokens, keys, places, queries, asked = [], [], [], [], []
        for channel in (ECG, PPG):
            all_tokens = everywhere.expand(valid[..., channel, :].shape)
            is_hidden = hidden[..., channel, :]  # (..., mask, token)
            # Packed: 25 visible tokens of each mask, then all 50 (this modality alone).
            place = torch.cat([seen[..., channel, :].flatten(-2), all_tokens], dim=-1)
            key = _at(valid[..., channel, :], place)  # (..., packed)
            hid = _at(is_hidden, seen[..., channel, :]).flatten(-2)  # False for a proper patch mask
            key = key & ~torch.cat([hid, torch.zeros_like(all_tokens, dtype=torch.bool)], dim=-1)
            view = _view_numbers(masks, VISIBLE_TOKENS, patches.device)  # (packed,)
            bias = bias_of((view[:, None] == view) & key[..., None, :])
            packed = torch.take_along_dim(patches[..., channel, :, :], place[..., None], dim=-2)
            encoder = self.encoders[channel]
            tokens.append(
                encoder(packed, self.encoder_positions[place], bias, far_of(place, place))
            )
            keys.append(key)
            places.append(place)
            # Queries: 25 hidden tokens of each mask, then all 50 (this modality hidden).
            query = torch.cat([unseen[..., channel, :].flatten(-2), all_tokens], dim=-1)
            asks = _at(is_hidden, unseen[..., channel, :]).flatten(-2)  # True for a proper one
            asks = torch.cat([asks, torch.ones_like(all_tokens, dtype=torch.bool)], dim=-1)
            queries.append(query)
            asked.append(asks & _at(valid[..., channel, :], query))

        outputs_in = _to_views(tokens[ECG], tokens[PPG], masks, axis=-2)  # (..., view, 50, width)
        view_keys = _to_views(keys[ECG], keys[PPG], masks, axis=-1)  # (..., view, 50)
        view_places = _to_views(places[ECG], places[PPG], masks, axis=-1)
        kinds = _to_views(
            torch.full_like(places[ECG], ECG), torch.full_like(places[PPG], PPG), masks, axis=-1
        )
        outputs = self._bottleneck(outputs_in, view_keys, view_places)  # (..., view, 50, 128)
        fingerprint = pool(outputs, view_keys)  # (..., view, 128)

        memory = torch.cat([outputs, fingerprint[..., None, :]], dim=-2)  # (..., view, 51, 128)
        at_memory = self.memory_positions[kinds, view_places]
        at_memory = torch.cat(
            [at_memory, self.memory_positions[-1, :1].expand_as(at_memory[..., :1, :])], -2
        )
        any_key = view_keys.any(dim=-1, keepdim=True)
        memory_keys = torch.cat([view_keys, any_key], dim=-1)  # (..., view, 51)
        predicted, counted = [], []
        for channel in (ECG, PPG):
            # The masks' views, then the view that sees the other modality alone.
            chosen = [*range(masks), masks + 1 if channel == ECG else masks]
            view = _view_numbers(masks, VISIBLE_TOKENS, patches.device)  # (query,)
            memory_view = torch.arange(masks + 1, device=patches.device)[:, None].expand(
                -1, TOKENS + 1
            )
            own = view[:, None] == memory_view.flatten()  # (query, key)
            usable = memory_keys[..., chosen, :].flatten(-2)  # (..., key)
            key_places = view_places[..., chosen, :]  # (..., mask + 1, 50)
            far = far_of(queries[channel], key_places.flatten(-2))
            far = far.reshape(*far.shape[:-1], masks + 1, TOKENS)
            at_fingerprint = torch.full_like(far[..., :1], FINGERPRINT_FAR)
            far = torch.cat([far, at_fingerprint], dim=-1).flatten(-2)  # (..., query, key)
            predicted.append(
                self.decoders[channel](
                    memory[..., chosen, :, :].flatten(-3, -2),
                    at_memory[..., chosen, :, :].flatten(-3, -2),
                    self.memory_positions[channel, queries[channel]],
                    bias_of(own & usable[..., None, :]),
                    far,
                )
            )
            answered = any_key[..., chosen, 0]  # (..., mask + 1)
            counted.append(asked[channel] & answered[..., view])
        return Views(
            fingerprint, (predicted[ECG], predicted[PPG]), (queries[ECG], queries[PPG]),
            (counted[ECG], counted[PPG]),
        )  # fmt: skip

    def _bottleneck(self, tokens: Tensor, keys: Tensor, places: Tensor) -> Tensor:
        """(..., token, width) of both modalities -> token outputs (..., token, 128)."""
        bias, far = bias_of(keys[..., None, :]), far_of(places, places)
        for block in self.bottleneck:
            tokens = block(tokens, bias, far)
        outputs: Tensor = self.fingerprint_head(self.fingerprint_norm(tokens))
        return outputs


def build(config: ModelConfig, seed: int) -> MaskedAutoencoder:
    """A new model; the same (config, seed) gives the same weights, global generators untouched.

    Xavier-uniform matrices, zero biases, mask and modality tokens N(0, 0.02^2), decoders' last
    layer zero: an untrained model predicts the window mean.

    Raises:
        OurMistake: a part's width does not fit its heads or the sine positions.
    """
    if config.width % 2 or config.decoder_width % (2 * _DECODER_HEADS):
        raise OurMistake("The model's width must be even and its decoder's a multiple of 8.")
    with torch.random.fork_rng(devices=[]):  # the constructors of torch draw from the global one
        model = MaskedAutoencoder(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                if module.in_features == 1:
                    module.weight.normal_(0.0, 0.02, generator=generator)
                else:
                    nn.init.xavier_uniform_(module.weight, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
        for name, value in model.named_parameters():
            if name.endswith("to_patch.weight"):
                value.zero_()
    return model


def weights_of(model: nn.Module) -> Weights:
    """All parameters by name, float32 copies."""
    return {
        name: value.detach().cpu().numpy().astype(np.float32, copy=True)
        for name, value in model.named_parameters()
    }


def load_weights(model: nn.Module, weights: Weights) -> None:
    """Copy weights into the model.

    Raises:
        Refused: names or shapes differ from the model's, or a value is not finite.
    """
    wanted = dict(model.named_parameters())
    fits = set(weights) == set(wanted) and all(
        weights[name].shape == tuple(value.shape) for name, value in wanted.items()
    )
    if not fits:
        raise Refused("The weights do not fit this model.", reason="weights")
    if not all(np.isfinite(value).all() for value in weights.values()):
        raise Refused("The weights have values that are not finite.", reason="weights")
    with torch.no_grad():
        for name, value in wanted.items():
            value.copy_(torch.from_numpy(np.array(weights[name], dtype=np.float32)))


def trainable_names(model: nn.Module, which: Trainable) -> tuple[str, ...]:
    """Names of the parameters that private training may change, in the model's order.

    "head": the bottleneck, the fingerprint path, and every LayerNorm. Everything else stays as
    the warm start left it, so that the noise stays small. "bottleneck": the same without the
    LayerNorms of encoders and decoders. "norms": every LayerNorm and the fingerprint path.
    "adapters": the low-rank factors of `shared_model.adapters`, which no model has at rest.

    Raises:
        OurMistake: no such choice.
    """
    if which not in TRAINABLE:
        raise OurMistake(f"What is trained is one of {', '.join(TRAINABLE)}.")
    names = [name for name, _ in model.named_parameters()]
    if which == "adapters":
        return adapters.names_of(names)
    norms = norm_names(model) if which in {"head", "norms"} else frozenset()
    parts = ("fingerprint_",) if which == "norms" else ("bottleneck.", "fingerprint_")
    return tuple(
        name for name in names if which == "all" or name in norms or name.startswith(parts)
    )


def norm_names(model: nn.Module) -> frozenset[str]:
    """Names of the parameters of every LayerNorm."""
    return frozenset(
        f"{name}.{kind}"
        for name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
        for kind in ("weight", "bias")
    )


def sent_names(model: nn.Module, which: Trainable, *, local_norms: bool = False) -> tuple[str, ...]:
    """Names of the parameters in an update, in the model's order: those that are trained, without
    the LayerNorms where each site keeps its own.

    Raises:
        OurMistake: no such choice.
    """
    kept = norm_names(model) if local_norms else frozenset()
    return tuple(name for name in trainable_names(model, which) if name not in kept)


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """Number of parameters that each choice of `trainable_names` trains; "all" is the model's."""
    weights = weights_of(model)
    parts = {
        which: adapters.trained_part(weights, trainable_names(model, which)) for which in TRAINABLE
    }
    return {which: sum(int(value.size) for value in part.values()) for which, part in parts.items()}


def _at(values: Tensor, index: Tensor) -> Tensor:
    """values (..., token) at index (..., place) -> (..., place)."""
    return torch.take_along_dim(values, index, dim=-1)


def _view_numbers(masks: int, size: int, device: torch.device) -> Tensor:
    """(size A + 50,): which view a packed place belongs to: 0 ... A-1, then A."""
    numbers = [mask for mask in range(masks) for _ in range(size)] + [masks] * TOKENS
    return torch.tensor(numbers, device=device)


def _unflatten(packed: Tensor, axis: int, masks: int) -> Tensor:
    """Split a packed axis of 25 A into (A, 25)."""
    parted: Tensor = packed.unflatten(axis, (masks, VISIBLE_TOKENS))  # type: ignore[no-untyped-call]
    return parted


def _to_views(ecg: Tensor, ppg: Tensor, masks: int, axis: int) -> Tensor:
    """Packed (..., 25 A + 50, *rest) of both modalities -> (..., view=A+2, 50, *rest)."""
    cut = masks * VISIBLE_TOKENS
    parts = [torch.split(x, [cut, TOKENS], dim=axis) for x in (ecg, ppg)]
    both = torch.cat(
        [_unflatten(part[0], axis, masks) for part in parts], dim=axis
    )  # (..., mask, 50, *rest)
    return torch.cat(
        [both, parts[0][1].unsqueeze(axis - 1), parts[1][1].unsqueeze(axis - 1)], axis - 1
    )
