"""Puts the weights of an earlier run (`init_from`) into the model of this one."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from dora.adapters import result
from dora.errors import UserError
from dora.methods.base import Method
from dora.plain import cut
from dora.preparing.init_from import EarlierRun


def carry_over(earlier: EarlierRun, model: nn.Module, method: Method, head: list[str]) -> None:
    """Puts the earlier run's weights and scale into the model; the head keeps its drawn weights.

    Raises UserError if the weights are not those of this method.
    """
    held: dict[str, Tensor] = safetensors.torch.load_file(earlier.file)
    frozen = method.frozen()
    trained = result.tensors_of(model, frozen)
    own = trained.keys() - set(head)
    if lacking := own - held.keys():
        raise UserError(f"{earlier.file} lacks {', '.join(sorted(lacking)[:3])}")
    if method.result == "modules":
        _refuse_other_modules(earlier.file, {n: trained[n] for n in own}, held, head)
    if method.result == "model":  # a whole model's file may hold buffers, too
        given = {name: held[name] for name in own}
    else:
        given = {name: tensor for name, tensor in held.items() if name not in head}
        # A method that begins with kept factors (PiSSA) goes on with the earlier run's.
        if earlier.scale is not None and not frozen:
            given = _trained_again(given, earlier.scale)
    # It would change the backbone, and be in no result.
    if foreign := given.keys() & {name for name, _ in model.named_parameters()} - own:
        raise UserError(f"{earlier.file} holds {min(foreign)}, which this run does not train")
    # The earlier run's scale: this run's own would follow from its start ranks, which are those at
    # the earlier run's end.
    if earlier.scale is not None:
        for layer in method.layers.values():
            layer.scale = earlier.scale
    try:
        result.restore(model, {}, given)
    except KeyError as e:
        raise UserError(
            f"{earlier.file} holds {cut(e.args[0])}, which this run's method has not"
        ) from e


def _refuse_other_modules(
    file: Path, own: dict[str, Tensor], held: dict[str, Tensor], head: list[str]
) -> None:
    """Raises UserError if `held` has tensors of other shapes than `own`, or more of them."""
    # A tensor that this run does not train would change the frozen backbone and be in no result.
    wrong = sorted(held.keys() - own.keys() - set(head))
    wrong += sorted(name for name, tensor in own.items() if held[name].shape != tensor.shape)
    if wrong:
        raise UserError(
            f"{file} does not fit this run's modules: {', '.join(map(cut, wrong[:3]))}; start from "
            "a run with equal settings"
        )


def _trained_again(held: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Returns an adapter's tensors with kept factors before the trained ones, all to be trained.

    The plan's start ranks count both, and a method that keeps factors begins its own chain anew.
    `kept_B` has g and the scale folded in: the scale is taken out again, and g is 1.
    """
    given = {n: t for n, t in held.items() if not n.endswith((".kept_A", ".kept_B"))}
    for name, kept_A in held.items():
        matrix, _, factor = name.rpartition(".")
        if factor == "kept_A":
            kept_B = held[f"{matrix}.kept_B"] / scale
            given[f"{matrix}.A"] = torch.cat([kept_A, held[f"{matrix}.A"]])
            given[f"{matrix}.B"] = torch.cat([kept_B, held[f"{matrix}.B"]], dim=1)
            if (g := held.get(f"{matrix}.g")) is not None:
                given[f"{matrix}.g"] = torch.cat([g.new_ones(len(kept_A)), g])
    return given
