"""Write the folders of the embedded models: configuration and tokenizer, no weights.

    python scripts/make_tiny.py [--out dora/assets]

The tokenizers come from the text of `data=mini`, made in memory, and are the same bytes every time. Needs no
network and a few seconds. Run it again when `dora/data/mini.py` changes its words: the ids then change, and
weights trained before no longer fit.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from itertools import chain
from math import log
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import DebertaV2Config, DebertaV2Tokenizer, RobertaConfig, RobertaTokenizer

from dora.data.mini import mini
from dora.data.tasks import AX, TASKS

# Without dropout and with weights near 1/sqrt(128), the comparison of two sentences is learnt from scratch
# in a few hundred steps; with the large models' 0.1 and 0.02 the loss stays on its plateau for thousands.
SHAPE = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "initializer_range": 0.1,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
MAX_TOKENS = 512
ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
DEBERTA_SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]


def corpus() -> list[str]:
    """Every sentence of every task and split."""
    splits = chain.from_iterable(mini(task).values() for task in (*TASKS.values(), AX))
    return [text for rows in splits for text in chain(rows.first, rows.second or ())]


def roberta(texts: list[str], out: Path) -> None:
    """Byte-level BPE with RoBERTa's special tokens at RoBERTa's ids 0 to 3."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1500,  # an upper bound: merging stops when every word is one token
        special_tokens=ROBERTA_SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    model = json.loads(trained.to_str())["model"]
    tokenizer = RobertaTokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        model_max_length=MAX_TOKENS,
    )
    tokenizer.save_pretrained(out)
    # 514 positions: RoBERTa counts them from pad_token_id + 1.
    RobertaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=MAX_TOKENS + 2,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        architectures=["RobertaForMaskedLM"],
        **SHAPE,
    ).save_pretrained(out)


def deberta(texts: list[str], out: Path) -> None:
    """Unigram over whole words, with single characters for unseen ones, and DeBERTaV3's settings.

    The pieces are counted here: the library's Unigram trainer gives other scores at every run.
    """
    words = Counter(word for text in texts for word in re.findall(r"\w+", text))
    total = words.total()
    pieces = [(f"▁{word}", round(log(count / total), 4)) for word, count in sorted(words.items())]
    rare = round(log(0.1 / total), 4)  # below every word: characters are the last resort
    chars = [(chr(code), rare) for code in range(ord("!"), ord("~") + 1)]
    tokenizer = DebertaV2Tokenizer(
        vocab=[(token, 0.0) for token in DEBERTA_SPECIAL] + [("▁", rare), *chars, *pieces],
        model_max_length=MAX_TOKENS,
    )
    tokenizer.save_pretrained(out)
    DebertaV2Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=MAX_TOKENS,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        share_att_key=True,
        position_buckets=256,
        norm_rel_ebd="layer_norm",
        max_relative_positions=-1,
        position_biased_input=False,
        type_vocab_size=0,
        pooler_hidden_size=SHAPE["hidden_size"],
        pooler_dropout=0,
        pooler_hidden_act="gelu",
        architectures=["DebertaV2ForMaskedLM"],
        **SHAPE,
    ).save_pretrained(out)


def main() -> None:
    """Write both folders under `--out`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "dora" / "assets")
    out = parser.parse_args().out
    texts = corpus()
    roberta(texts, out / "tiny_roberta")
    deberta(texts, out / "tiny_deberta")


if __name__ == "__main__":
    main()
