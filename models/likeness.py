"""A family for a decoder that nobody declared: its parts are found by their kinds, and by what runs after what.

The model is built without weights and runs once. Whether it is read rightly is for `comparison` to say, which has the
weights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from prge.models.families import FAMILIES, Family, UnsupportedModel
from prge.quiet import quiet

_found: dict[str, Family] = {}


def family_of(config: Any) -> Family:
    """The family of the models of a configuration: the one that is declared for its type, or one like it.

    Raises:
        UnsupportedModel: none is declared, and it is like no decoder that prge knows; says what is odd.
    """
    declared = FAMILIES.get(config.model_type)
    if declared:
        return declared
    key = config.to_json_string(use_diff=False)
    if key not in _found:
        _found[key] = _find(config)
    return _found[key]


def _find(config: Any) -> Family:
    """The family of a configuration, by a model without weights."""
    if any(name.endswith(("ForMaskedLM", "ForPreTraining")) for name in config.architectures or ()) or (
        type(config) in MODEL_FOR_MASKED_LM_MAPPING and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING
    ):
        known = ", ".join(name for name, family in FAMILIES.items() if not family.causal)
        raise UnsupportedModel(f"encoders of this type are not supported; these are: {known}")
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"):
        if not hasattr(config, name):
            raise UnsupportedModel(f"its configuration says nothing of {name}")
    differing = getattr(config, "per_layer_attributes", None) or ()
    for name in ("num_key_value_heads", "head_dim"):
        if name in differing:
            raise UnsupportedModel(f"its layers differ in {name}")
    try:
        with quiet(), torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
            try:
                run = _Run(model, None)
            except RuntimeError:  # most models look at the numbers of a mask that they make
                run = _Run(model, torch.zeros(1, 1, 4, 4))
    except Exception as e:  # whatever transformers raises: it has no such decoder, or it cannot run without weights
        if any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
            raise UnsupportedModel("a mixture of experts is not supported") from e
        raise UnsupportedModel(f"transformers has no decoder of this type that runs without weights ({e})") from e
    names = {module: name for name, module in model.named_modules()}
    path = _layers(model, config)
    first: nn.Module = model.get_submodule(path)[0]
    attention = _attention(first)
    module = first.get_submodule(attention)
    linears = [name for name, m in module.named_children() if m in run.order and isinstance(m, nn.Linear | Conv1D)]
    linears.sort(key=lambda name: run.order.index(module.get_submodule(name)))
    head = model.get_output_embeddings()
    if head is None or head not in run.order:
        raise UnsupportedModel("no linear predicts its tokens")
    gate = _only([name for name, _ in first.named_modules() if name.endswith("gate_up_proj")], "fused gates")
    mlp = (gate or "").removesuffix("gate_up_proj")
    outside = [m for m in run.order if not names[m].startswith(f"{path}.")]
    return Family(
        layers=path,
        embedding=names[model.get_input_embeddings()],
        head=names[head],
        norms=tuple(names[m] for m in _behind(run, model.get_submodule(path)[-1], head)),
        rotary=_only([names[m] for m in outside if "Rotary" in type(m).__name__], "tables of rotary positions"),
        positions=_only(
            [names[m] for m in outside if isinstance(m, nn.Embedding) and m is not model.get_input_embeddings()],
            "tables beside the embedding",
        ),
        attention=attention,
        attention_norm=_input_of(run, first, module),
        queries_keys_values=_queries_keys_values(linears),
        output=linears[-1],
        by_head=linears[0] == "query_key_value",
        gated=(gate, f"{mlp}down_proj", f"{mlp}activation_fn") if gate else None,
        transposed=any(isinstance(m, Conv1D) for m in first.modules()),
    )


class _Run:
    """One forward pass over four tokens, without weights.

    Attributes:
        order: the modules, in the order in which they returned.
        inputs: the first tensor that each was given.
        made: the module that returned a tensor first, by the tensor's id.
    """

    def __init__(self, model: nn.Module, mask: Tensor | None):
        """``mask`` is the attention's, or None where the model makes it."""
        self.order: list[nn.Module] = []
        self.inputs: dict[nn.Module, Tensor] = {}
        self.made: dict[int, nn.Module] = {}
        self._kept: list[Any] = []  # so that no id is used twice
        hooks = [m.register_forward_pre_hook(self._before, with_kwargs=True) for m in model.modules()]
        hooks += [m.register_forward_hook(self._after) for m in model.modules()]
        try:
            with torch.no_grad():
                model(torch.zeros(1, 4, dtype=torch.int64), attention_mask=mask, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        if given:
            self.inputs.setdefault(module, given[0])
            self._kept.append(given[0])

    def _after(self, module: nn.Module, args: Any, result: Any) -> None:
        if module not in self.order:
            self.order.append(module)
        found = result[0] if isinstance(result, tuple) and result else result
        if isinstance(found, Tensor):
            self.made.setdefault(id(found), module)
            self._kept.append(found)


def _layers(model: Any, config: Any) -> str:
    """The name of the list of layers."""
    count = config.num_hidden_layers
    lists = [name for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not lists:
        raise UnsupportedModel(f"it has no list of its {count} layers")
    if len({tuple(type(m) for m in layer.modules()) for layer in model.get_submodule(lists[0])}) > 1:
        raise UnsupportedModel("its layers are of several kinds")
    return str(lists[0])


def _attention(layer: nn.Module) -> str:
    """The name of a layer's attention: the first module that is called so and has linears of its own."""
    for name, module in layer.named_modules():
        if "Attention" in type(module).__name__ and any(isinstance(m, nn.Linear | Conv1D) for m in module.children()):
            return name
    raise UnsupportedModel("its layers have no attention with linears")


def _queries_keys_values(linears: Sequence[str]) -> tuple[str, ...]:
    """Of an attention's linears, in the order of their execution, all but the last, which closes it."""
    own = linears[:-1]
    if len(own) == 1:
        return tuple(own)
    first = [next((name for name in own if re.match(f"(w_?)?{letter}", name)), "") for letter in "qkv"]
    if len(own) != 3 or len(set(first)) != 3 or "" in first:
        raise UnsupportedModel(f"its attention has the linears {', '.join(linears)}")
    return tuple(first)


def _input_of(run: _Run, layer: nn.Module, attention: nn.Module) -> str | None:
    """The module whose output the attention takes, named within the layer; None where that is the layer's input."""
    given = run.inputs[attention]
    if given is run.inputs[layer]:
        return None
    made = run.made.get(id(given))
    found = next((name for name, m in layer.named_modules() if m is made), "")
    if not found:
        raise UnsupportedModel("its attention takes something else than a norm's output")
    return found


def _behind(run: _Run, layer: nn.Module, head: nn.Module) -> list[nn.Module]:
    """The modules between the last layer and the head, in order, without those that hold others."""
    between = run.order[run.order.index(layer) + 1 : run.order.index(head)]
    return [m for m in between if not list(m.children())]


def _only(names: Sequence[str], what: str) -> str | None:
    """The one of these names; None without one."""
    if len(names) > 1:
        raise UnsupportedModel(f"it has several {what}: {', '.join(names)}")
    return names[0] if names else None
