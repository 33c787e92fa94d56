"""Gradients of each patient by themselves in one backward pass, layer by layer.

    if taps.tappable(loss, names):
        found = taps.gradients(loss, held, parameters, batch)

The loss runs under `torch.func.vmap`: its code sees one patient's tensors and cannot write a term
over several. What it does to a trained matrix is caught on the way (`TorchFunctionMode`): a Linear
or LayerNorm layer is computed for all patients at once, and when its outputs' gradients come back,
`(patient, token, out)^T (patient, token, in)` is what each patient adds to that matrix (Goodfellow,
1510.01799; one backward pass in all, as in book-keeping, 2210.00038). Ordinary autograd goes
backward outside of vmap, so that what a layer kept is let go as soon as it was used; `vmap(grad)`
keeps all to the end.

Gradients are held whole, (patient, *shape), and not their norms alone: what is clipped is what is
added, to the bit. A layer that runs twice adds up. A trained tensor that is used in any other way
is found by its own gradient after the backward pass, and refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from shared_model.errors import OurMistake


def tappable(loss: nn.Module, names: Sequence[str]) -> bool:
    """Whether each of these parameters is a Linear's, or a LayerNorm's over the last axis."""
    owned: set[str] = set()
    for path, layer in loss.named_modules():
        one_axis = type(layer) is nn.LayerNorm and len(layer.normalized_shape) == 1
        if one_axis or type(layer) is nn.Linear:
            owned |= {f"{path}.{own}".lstrip(".") for own in ("weight", "bias")}
    return owned.issuperset(names)


class Recorder:
    """What the layers' backward passes leave: gradients by name, (patient, *shape) float32."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def add(self, name: str | None, gradient: Callable[[], Tensor]) -> None:
        """Keep one more; nothing is computed for a tensor that is not trained."""
        if name is None:
            return
        made = gradient()
        self.found[name] = self.found[name] + made if name in self.found else made


def _rows(x: Tensor) -> Tensor:
    """(patient, ..., size) -> (patient, row, size); a vector of each patient is one row."""
    return x.flatten(1, -2) if x.dim() > 2 else x[:, None]


class _Linear(torch.autograd.Function):
    """All patients' rows through one matrix: x (patient, ..., in) -> (patient, ..., out)."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None,
        recorder: Recorder, names: tuple[str | None, str | None],
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x if names[0] else None, weight)
        ctx.recorder, ctx.names = recorder, names
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        rows = _rows(gradient)
        ctx.recorder.add(ctx.names[0], lambda: rows.mT @ _rows(x))  # (patient, out, in)
        ctx.recorder.add(ctx.names[1], lambda: rows.sum(1))
        back = gradient @ weight if ctx.needs_input_grad[1] else None
        return None, back, None, None, None, None


class _LayerNorm(torch.autograd.Function):
    """All patients' rows through one LayerNorm over the last axis."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float,
        recorder: Recorder, names: tuple[str | None, str | None],
    ) -> Tensor:  # fmt: skip
        out, mean, rstd = torch.native_layer_norm(x, weight.shape, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.recorder, ctx.names = recorder, names
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, weight, bias, mean, rstd = ctx.saved_tensors
        names = ctx.names
        if names[0] is not None:
            scaled = (x - mean).mul_(rstd).mul_(gradient)
            ctx.recorder.add(names[0], lambda: _rows(scaled).sum(1))
        ctx.recorder.add(names[1], lambda: _rows(gradient).sum(1))
        back = None
        if ctx.needs_input_grad[1]:
            back, _, _ = torch.ops.aten.native_layer_norm_backward(
                gradient, x, list(weight.shape), mean, rstd, weight, bias, [True, False, False]
            )
        return None, back, None, None, None, None, None


class _ForAll(torch.autograd.Function):
    """The way out of vmap: `layer` is given the tensor of all patients, (patient, ...).

    `lane` is a patient's own zero, so that there is always a patient axis to find.
    """

    @staticmethod
    def forward(x: Tensor, lane: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
        raise OurMistake("Per-patient gradients were asked for outside of vmap.")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        raise OurMistake("Per-patient gradients were asked for outside of vmap.")

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, lane: Tensor,
        layer: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, int]:  # fmt: skip
        place = in_dims[0]
        rows = x.expand(info.batch_size, *x.shape) if place is None else x.movedim(place, 0)
        return layer(rows), 0


class Taps(TorchFunctionMode):
    """Sends Linear and LayerNorm through the functions above while one patient's loss is traced."""

    def __init__(
        self, trained: Mapping[str, Tensor], held: Mapping[str, Tensor], anchor: Tensor,
        lane: Tensor, recorder: Recorder,
    ) -> None:  # fmt: skip
        super().__init__()
        self.names = {id(value): name for name, value in trained.items()}
        self.public = {id(value) for value in (*trained.values(), *held.values())}
        self.anchor, self.lane, self.recorder = anchor, lane, recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear:
            return self._linear(*args, **kwargs)
        if func is F.layer_norm:
            return self._layer_norm(*args, **kwargs)
        return func(*args, **kwargs)

    def _names(self, *tensors: Tensor | None) -> tuple[str | None, str | None]:
        first, second = (None if value is None else self.names.get(id(value)) for value in tensors)
        return first, second

    def _alike_for_all(self, *tensors: Tensor | None) -> bool:
        """Whether they are the model's own; what is computed from a patient stays inside vmap."""
        return all(value is None or id(value) in self.public for value in tensors)

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        x = input  # torch's own name, by which a call may give it
        if not self._alike_for_all(weight, bias):
            return F.linear(x, weight, bias)
        names = self._names(weight, bias)
        held, held_bias = weight.detach(), None if bias is None else bias.detach()
        if names == (None, None):
            return self._all(x, lambda rows: F.linear(rows, held, held_bias))
        rest = (held, held_bias, self.recorder, names)
        return self._all(x, lambda rows: _apply(_Linear, self.anchor, rows, *rest))

    def _layer_norm(
        self, x: Tensor, shape: Sequence[int], weight: Tensor | None = None,
        bias: Tensor | None = None, eps: float = 1e-5,
    ) -> Tensor:  # fmt: skip
        names = self._names(weight, bias)
        tapped = weight is not None and len(shape) == 1 and names != (None, None)
        if not tapped or weight is None or not self._alike_for_all(weight, bias):
            return F.layer_norm(x, shape, weight, bias, eps)
        held, held_bias = weight.detach(), None if bias is None else bias.detach()
        rest = (held, held_bias, eps, self.recorder, names)
        return self._all(x, lambda rows: _apply(_LayerNorm, self.anchor, rows, *rest))

    def _all(self, x: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
        return _apply(_ForAll, x, self.lane, layer)


_NO_HOOKS = "Hooks on saved tensors would see all patients at once."


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    made: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return made


def gradients(
    loss: nn.Module, held: Mapping[str, Tensor], parameters: Mapping[str, Tensor],
    batch: Sequence[Tensor],
) -> dict[str, Tensor]:  # fmt: skip
    """`privacy.per_patient_gradients` for parameters that are `tappable`.

    Args:
        held: everything else in `loss` by name, constant.

    Raises:
        OurMistake: a trained tensor is used outside of its layer, or the loss is not one number.
        RuntimeError: from torch, if `forward` draws random numbers, or if the caller has set hooks
            on saved tensors: they would be given those of all patients together.
    """
    patients, device = batch[0].shape[0], batch[0].device
    recorder = Recorder()
    alone = torch.autograd.graph.disable_saved_tensors_hooks(_NO_HOOKS)
    with torch.inference_mode(False), torch.enable_grad(), alone:
        chosen = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        anchor = torch.zeros((), device=device, requires_grad=True)

        def one_patient(lane: Tensor, *tensors: Tensor) -> Tensor:
            with Taps(chosen, held, anchor, lane, recorder):
                return torch.as_tensor(functional_call(loss, {**held, **chosen}, tensors))

        each = vmap(one_patient)(torch.zeros(patients, device=device), *batch)  # (patient,)
        if each.dim() != 1:
            raise OurMistake("The loss of one patient must be one number.")
        beside: tuple[Tensor | None, ...] = ()
        if each.requires_grad:  # not if the loss uses none of them
            # Not `backward`: that would leave sums over patients in whatever else wants a gradient.
            wanted = [anchor, *chosen.values()]
            beside = torch.autograd.grad(each.sum(), wanted, allow_unused=True)
    if any(gradient is not None for gradient in beside):
        raise OurMistake("A trained tensor is used outside of its Linear or LayerNorm layer.")
    return {
        name: recorder.found[name]
        if name in recorder.found
        else value.detach().new_zeros((patients, *value.shape))
        for name, value in chosen.items()
    }
