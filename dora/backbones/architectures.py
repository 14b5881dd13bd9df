"""The table of architectures: where each has its linears and its head, and what else differs.

A row holds all that the suite itself knows of a kind of encoder. For names and shapes of the other
tensors it asks Transformers (`dora.backbones.tensors`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

# The kinds of linears in an encoder layer. USUAL are those of BERT and its like, for which
# `target=all` stands there. `qkv` is query, key and value in one matrix; `glu` is the first matrix
# of a gated feed-forward network, input and gate in one.
USUAL = ("q", "k", "v", "o", "ffn1", "ffn2")
KINDS = (*USUAL, "qkv", "glu")


@dataclass(frozen=True)
class Architecture:
    """Describes how the encoders of one `model_type` of config.json differ from others.

    `prefix`: the backbone's name in Transformers' sequence classifier, with its dot.
    `layers`: the name of the list of encoder layers inside the backbone.
    `linears`: the path of each linear in a layer, by kind, in the order of draws and parameters.
    Paths are exact: "output.dense" as a substring would also find "attention.output.dense".
    `read`: the kinds of linears that all read one input, so that they can be computed together.
    `reader`: the module in a layer that gets this input as its first argument.
    `head`: the modules outside the backbone, which are drawn from a run's seed.
    `pretrained_head`: those of them that are read from the checkpoint instead, which holds them.
    `head_dropout`: the dropout module before the classifier's output.
    `tokenizer`: the tokenizer's class, less "Tokenizer", if tokenizer_config.json names none.
    `pad`: Transformers' id of the padding, if config.json names none.
    `types`: Transformers' number of segment ids, if config.json names none.
    `counts_from_pad`: position ids begin at the padding's id + 1, not at 0.
    `absolute`: positions have an embedding each, so that a text may not be longer than these.
    `keys`: keys of config.json that are spelled otherwise than BERT's, by BERT's.
    `ends`: the module with which each half of a layer ends, by the kind of the half's last linear.
    It applies `dropout`, adds the residual and applies `LayerNorm`. Empty if there are no such
    modules.
    `attention`: its kind. "plain" is BERT's, called through Transformers' interface, "biased" MPNet's
    (`dora.backbones.biased`), "disentangled" DeBERTa's (`dora.backbones.disentangled`): in these
    rows may follow each other without padding. Empty for another, which stays as it is.
    `first_token`: the modules that the last layer computes for each row's first token alone, since
    the head reads no other. Empty if later modules of that layer add values of all tokens, as where
    a layer normalises before its halves; rows are then padded, not packed.
    """

    prefix: str
    layers: str
    linears: Mapping[str, str]
    reader: str
    head: tuple[str, ...]
    head_dropout: str
    tokenizer: str | None
    pretrained_head: tuple[str, ...] = ()
    read: tuple[str, ...] = ("q", "k", "v")
    pad: int = 0
    types: int = 0
    counts_from_pad: bool = False
    absolute: bool = True
    keys: Mapping[str, str] = field(default_factory=dict)
    ends: Mapping[str, str] = field(default_factory=dict)
    attention: Literal["plain", "biased", "disentangled", ""] = ""
    first_token: tuple[str, ...] = ()

    def key(self, name: str) -> str:
        """Returns how config.json of this architecture spells one of BERT's keys."""
        return self.keys.get(name, name)

    def padding(self, config: Mapping[str, Any]) -> int | None:
        """Returns the padding's token id: config.json's, or Transformers' if that names none."""
        pad: int | None = config.get("pad_token_id", self.pad)
        return pad

    def first_position(self, config: Mapping[str, Any]) -> int:
        """Returns the position id of a row's first token."""
        if not self.counts_from_pad:
            return 0
        pad = self.padding(config)
        assert pad is not None  # `read_config` refuses null here
        return pad + 1

    def segments(self, config: Mapping[str, Any]) -> bool:
        """Tells whether the model tells a pair's two texts apart by segment ids."""
        return int(config.get("type_vocab_size", self.types)) > 1

    def positions(self, config: Mapping[str, Any]) -> int | None:
        """Returns the length of the longest text, in tokens; None if there is no limit."""
        # DeBERTa's key: positions may be relative beside embeddings of their own, or instead.
        if not self.absolute or not config.get("position_biased_input", True):
            return None
        return int(config.get("max_position_embeddings", 512)) - self.first_position(config)


_BERT = Architecture(
    prefix="bert.",
    layers="encoder.layer",
    linears={
        "q": "attention.self.query",
        "k": "attention.self.key",
        "v": "attention.self.value",
        "o": "attention.output.dense",
        "ffn1": "intermediate.dense",
        "ffn2": "output.dense",
    },
    reader="attention.self",
    head=("classifier",),
    head_dropout="dropout",
    tokenizer="Bert",
    types=2,
    ends={"o": "attention.output", "ffn2": "output"},
    attention="plain",
    first_token=("attention.output",),
)
# RoBERTa's position ids begin behind the padding's: of 514 rows of the table 512 are used.
_ROBERTA = replace(
    _BERT,
    prefix="roberta.",
    head_dropout="classifier.dropout",
    tokenizer="Roberta",
    pad=1,
    counts_from_pad=True,
)
ARCHITECTURES: dict[str, Architecture] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    # Transformers calls DeBERTa v2 and v3 alike: v3 has v2's architecture and another pretraining.
    # Its pooler stands outside the backbone.
    "deberta-v2": replace(
        _BERT,
        prefix="deberta.",
        linears={
            **_BERT.linears,
            "q": "attention.self.query_proj",
            "k": "attention.self.key_proj",
            "v": "attention.self.value_proj",
        },
        head=("classifier", "pooler"),
        tokenizer="DebertaV2",
        types=0,
        keys={"classifier_dropout": "cls_dropout"},
        attention="disentangled",
    ),
    "xlm-roberta": replace(_ROBERTA, tokenizer="XLMRoberta"),
    "electra": replace(_BERT, prefix="electra.", head_dropout="classifier.dropout"),
    # The output's linear stands in the module of q, k and v, and reads another input.
    "mpnet": replace(
        _ROBERTA,
        prefix="mpnet.",
        linears={
            "q": "attention.attn.q",
            "k": "attention.attn.k",
            "v": "attention.attn.v",
            "o": "attention.attn.o",
            "ffn1": "intermediate.dense",
            "ffn2": "output.dense",
        },
        reader="attention.attn",
        tokenizer="MPNet",
        types=0,
        ends={"o": "attention", "ffn2": "output"},
        attention="biased",
        first_token=("intermediate", "output"),
    ),
    "distilbert": replace(
        _BERT,
        prefix="distilbert.",
        layers="transformer.layer",
        linears={
            "q": "attention.q_lin",
            "k": "attention.k_lin",
            "v": "attention.v_lin",
            "o": "attention.out_lin",
            "ffn1": "ffn.lin1",
            "ffn2": "ffn.lin2",
        },
        reader="attention",
        head=("pre_classifier", "classifier"),
        tokenizer="DistilBert",
        types=0,
        keys={
            "hidden_size": "dim",
            "intermediate_size": "hidden_dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "classifier_dropout": "seq_classif_dropout",
        },
        ends={},
        attention="",
        first_token=(),
    ),
    # Positions are rotations. `head.` is the one of masked language modelling, which checkpoints
    # hold; it is trained on with the classifier.
    "modernbert": Architecture(
        prefix="model.",
        layers="layers",
        linears={"qkv": "attn.Wqkv", "o": "attn.Wo", "glu": "mlp.Wi", "ffn2": "mlp.Wo"},
        reader="attn",
        read=(),
        head=("head", "classifier"),
        pretrained_head=("head",),
        head_dropout="drop",
        tokenizer=None,
        pad=50_283,
        absolute=False,
    ),
}


def architecture_of(model_type: object) -> Architecture:
    """Returns the row of a `model_type`. Raises KeyError for one that the table lacks."""
    return ARCHITECTURES[str(model_type)]


# Cached: a study's journals name the same few hundred matrices hundreds of thousands of times.
@functools.cache
def _find(name: str) -> tuple[Architecture, int, str]:
    """Returns (row, layer from 0, kind) of a linear, by the first row that has it.

    name: the module's full name. Raises ValueError for one that is no linear of an encoder layer.
    """
    for row in ARCHITECTURES.values():
        inside = f"{row.prefix}{row.layers}."
        if not name.startswith(inside):
            continue
        layer, _, path = name.removeprefix(inside).partition(".")
        # Not the first row of this prefix: two rows may share one and have other linears, as both
        # versions of DeBERTa would.
        for kind, own in row.linears.items():
            if own == path and layer.isdigit():
                return row, int(layer), kind
    raise ValueError(f"{name} is no linear of an encoder layer")


def owner_of(name: str) -> Architecture:
    """Returns the first row whose classifiers have a linear of this name in an encoder layer.

    Raises ValueError for a name that is no linear of an encoder layer.
    """
    return _find(name)[0]


def layer_and_kind(name: str) -> tuple[int, str]:
    """Returns (layer from 0, kind) of a full module name.

    `roberta.encoder.layer.3.attention.self.query` gives (3, "q"). Raises ValueError for a name that
    is no linear of an encoder layer.
    """
    return _find(name)[1:]


def end_of(name: str) -> str:
    """Returns the full name of the module with which the half layer of a linear ends (`ends`).

    Raises ValueError for a linear that is not the last one of its half.
    """
    row, layer, kind = _find(name)
    if kind not in row.ends:
        raise ValueError(f"no half of a layer ends behind {name}")
    return f"{row.prefix}{row.layers}.{layer}.{row.ends[kind]}"
