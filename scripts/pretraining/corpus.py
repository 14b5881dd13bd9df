"""The text that the embedded models are pretrained on: documents, tokenizers, packed blocks."""

from __future__ import annotations

import io
import json
import lzma
import unicodedata
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import DebertaV2Tokenizer, RobertaTokenizer

from dora.data.sources import read_dir
from dora.data.tasks import TASKS, Task
from dora.errors import UserError
from dora.files import write_atomic

Text = tuple[str, str | None]
VOCABULARY = 8000
LENGTH = 128  # of a packed sequence, and what tiny_roberta has positions for
HELD_OUT = 500  # documents, at most a tenth
GLUE_TIMES = 3  # its sentences are few beside the reviews, and what the models are for
ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
DEBERTA_SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]


def documents(files: list[Path], glue: Path | None) -> tuple[list[Text], list[Text]]:
    """Returns (training, held-out) documents in a fixed mixed order.

    A pair of sentences is one document. GLUE's are among the training documents GLUE_TIMES.
    """
    texts: list[Text] = []
    for file in files:
        with _open(file) as f:
            texts += [(line.strip(), None) for line in f if line.strip()]
    own: list[Text] = []
    if glue is not None:
        own = [text for task in TASKS.values() for text in _glue_texts(task, glue)]
    texts += own
    # Not --seed's: models of several seeds share a tokenizer and the held-out documents.
    order = np.random.default_rng(0).permutation(len(texts))
    n = min(HELD_OUT, len(texts) // 10)
    held = [texts[i] for i in order[:n]]
    unseen = set(held)
    train = [texts[i] for i in order[n:]] + own * (GLUE_TIMES - 1)
    # The copies hold the held-out ones of GLUE's too, and a review may be there twice.
    return [text for text in train if text not in unseen], held


def _open(file: Path) -> TextIO:
    """Opens a plain or xz-compressed text."""
    return (
        lzma.open(file, "rt", encoding="utf-8")
        if file.suffix == ".xz"
        else file.open(encoding="utf-8")
    )


def _glue_texts(task: Task, folder: Path) -> Iterator[Text]:
    """Yields a task's training texts, less those with a sentence that another split has too."""
    try:
        splits = read_dir(task, folder)
    except UserError:
        print(f"{task.name}: not in {folder}, left out", flush=True)
        return
    # The test splits' sentences are published without labels, and belong to the tests all the same.
    unseen = {
        t
        for name, rows in splits.items()
        if name != "train"
        for t in chain(rows.first, rows.second or ())
    }
    train = splits["train"]
    seconds = train.second or [None] * len(train)  # type: ignore[list-item]
    for first, second in zip(train.first, seconds, strict=True):
        if first not in unseen and second not in unseen:
            yield first, second


def sentences(texts: list[Text]) -> Iterator[str]:
    """Yields the texts as single strings, in Unicode's composed form."""
    return (unicodedata.normalize("NFC", s) for pair in texts for s in pair if s)


def roberta_tokenizer(texts: list[Text]) -> RobertaTokenizer:
    """Trains byte-level BPE, with RoBERTa's special tokens at RoBERTa's ids 0 to 3."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=ROBERTA_SPECIAL,
        # All 256 bytes, seen or not, so that no text holds an unknown token.
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(sentences(texts), trainer)
    # Through JSON: the trained object shows its vocabulary, but not its merges.
    model = json.loads(trained.to_str())["model"]
    merges: Any = [tuple(pair) for pair in model["merges"]]  # pairs, which the tokenizer takes too
    return RobertaTokenizer(vocab=model["vocab"], merges=merges, model_max_length=LENGTH)


def deberta_tokenizer(texts: list[Text]) -> DebertaV2Tokenizer:
    """Trains a unigram model by SentencePiece, as DeBERTaV3's is.

    It sees every fourth document: its memory grows with the text.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences(texts[::4]),
        model_writer=model,
        model_type="unigram",
        vocab_size=VOCABULARY - len(DEBERTA_SPECIAL) + 3,  # it counts <unk>, <s> and </s> in
        hard_vocab_limit=False,  # little text has fewer pieces
        normalization_rule_name="identity",  # NFC, as the tokenizer does it
        # ASCII, seen or not.
        required_chars="".join(map(chr, range(ord("!"), ord("~") + 1))),
        max_sentence_length=1
        << 20,  # longer ones are dropped silently, by default from 4,192 bytes
        num_threads=1,  # so that no vocabulary depends on how threads are scheduled
        minloglevel=1,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    vocab = [(t, 0.0) for t in DEBERTA_SPECIAL]
    vocab += [
        (pieces.id_to_piece(i), pieces.get_score(i)) for i in range(3, pieces.get_piece_size())
    ]
    return DebertaV2Tokenizer(vocab=vocab, model_max_length=LENGTH)


def pack(texts: list[Text], tokenizer: Any) -> np.ndarray:
    """Returns (blocks, LENGTH) uint16: [CLS] and the next LENGTH - 1 tokens of the documents.

    Documents lie end to end in a mixed order. Each ends in the separator, and attention runs across
    it; the tail that fills no block is dropped.
    """
    stream: list[np.ndarray] = []
    # In parts: the tokenizer's lists take eight bytes a token and more, an array of uint16 two.
    for at in range(0, len(texts), 4096):
        part = texts[at : at + 4096]
        # Singles and pairs apart: a batch is one or the other. Their order within a part is fixed
        # too.
        for pairs in (False, True):
            chosen = [t for t in part if (t[1] is not None) == pairs]
            if chosen:
                second = [str(b) for _, b in chosen] if pairs else None
                ids = tokenizer([a for a, _ in chosen], second, verbose=False)["input_ids"]
                stream += [np.array(row[1:], np.uint16) for row in ids]  # without its [CLS]
    order = np.random.default_rng(1).permutation(len(stream))
    flat = np.concatenate([stream[i] for i in order])
    rows = len(flat) // (LENGTH - 1)
    blocks = flat[: rows * (LENGTH - 1)].reshape(rows, LENGTH - 1)
    return np.concatenate([np.full((rows, 1), tokenizer.cls_token_id, np.uint16), blocks], axis=1)


def prepared(
    kind: str, work: Path, files: list[Path], glue: Path | None
) -> tuple[Any, np.ndarray, np.ndarray]:
    """Returns (tokenizer, training blocks, held-out blocks), made once in `work`."""
    # The held-out blocks are written last: where they are, the rest is.
    family = {"roberta": RobertaTokenizer, "deberta": DebertaV2Tokenizer}[kind]
    if not (work / "heldout.npy").exists():
        train, held = documents(files, glue)
        make = roberta_tokenizer if kind == "roberta" else deberta_tokenizer
        tokenizer = make(train)
        tokenizer.save_pretrained(work)
        for name, part in (("train", train), ("heldout", held)):
            buffer = io.BytesIO()
            np.save(buffer, pack(part, tokenizer))
            write_atomic(work / f"{name}.npy", buffer.getvalue())
    tokenizer = family.from_pretrained(work)
    return tokenizer, np.load(work / "train.npy", mmap_mode="r"), np.load(work / "heldout.npy")
