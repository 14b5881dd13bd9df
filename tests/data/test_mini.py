"""`data=mini` has reproducible rows; words alone do not solve it, but a tiny transformer does."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from dora.data.mini import SIZES, mini
from dora.data.tasks import AX, TASKS, Rows, Task

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "dora" / "assets"
ALL = [*TASKS.values(), AX]
PAIRS = [task for task in TASKS.values() if len(task.text) == 2]
EPOCHS, BATCH, LR = 8, 32, 5e-4

rows_of = cache(lambda name: mini(AX if name == "ax" else TASKS[name]))
each = pytest.mark.parametrize("task", ALL, ids=lambda t: t.name)
each_pair = pytest.mark.parametrize("task", PAIRS, ids=lambda t: t.name)
each_model = pytest.mark.parametrize("model", ["tiny_roberta", "tiny_deberta"])


def keys(rows: Rows) -> list[tuple[str, ...]]:
    return list(zip(rows.first, rows.second or rows.first, strict=True))


def score(task: Task, rows: Rows, predicted: np.ndarray) -> float:
    """Computes accuracy, or Pearson's correlation for STS-B."""
    if task.regression:
        return float(np.corrcoef(rows.label, predicted)[0, 1])
    return float(np.mean(rows.label == predicted))


def majority(task: Task, rows: Rows) -> float:
    return 0.0 if task.regression else np.bincount(rows.label).max() / len(rows)


def counts(train: Rows, rows: Rows, apart: bool) -> csr_matrix:
    """Counts words, (len(rows), words), over both sentences together, or each sentence apart."""
    if apart:
        columns = [(train.first, rows.first), (train.second, rows.second)]
    else:
        columns = [tuple([" ".join(key) for key in keys(r)] for r in (train, rows))]
    return csr_matrix(hstack([CountVectorizer().fit(a).transform(b) for a, b in columns]))


def words_alone(task: Task, apart: bool) -> float:
    """Computes the dev score of a linear model on word counts."""
    train, dev = rows_of(task.name)["train"], rows_of(task.name)["dev"]
    model = LinearRegression() if task.regression else LogisticRegression(max_iter=1000)
    model.fit(counts(train, train, apart), train.label)
    return score(task, dev, model.predict(counts(train, dev, apart)))


@each
def test_splits_have_the_promised_rows_and_label_types(task: Task) -> None:
    splits = rows_of(task.name)
    assert list(splits) == list(task.splits)
    for name, rows in splits.items():
        assert len(rows) == len(rows.first) == SIZES[name]
        assert np.array_equal(rows.idx, np.arange(len(rows)))
        assert (rows.second is None) == (len(task.text) == 1)
        if not name.startswith(("train", "dev")):
            assert rows.label is None
        elif task.regression:
            assert rows.label.dtype == np.float64
            assert 0 <= rows.label.min() <= rows.label.max() <= 5
            assert np.any(rows.label % 1 != 0)
        else:
            assert rows.label.dtype == np.int64
            assert set(rows.label) == set(range(len(task.labels)))


@each
def test_no_row_occurs_twice(task: Task) -> None:
    every = [key for rows in rows_of(task.name).values() for key in keys(rows)]
    assert len(every) == len(set(every))


@pytest.mark.parametrize(
    ("name", "share"), [("cola", 0.70), ("mrpc", 0.67), ("qqp", 0.37), ("sst2", 0.5), ("wnli", 0.5)]
)
def test_share_of_label_1_is_near_glue(name: str, share: float) -> None:
    assert rows_of(name)["train"].label.mean() == pytest.approx(share, abs=0.05)


def test_rows_are_the_same_in_every_process() -> None:
    code = (
        "import hashlib; from dora.data.mini import mini; from dora.data.tasks import AX, TASKS;"
        "print(hashlib.sha256(repr([[(s, r.first, r.second, None if r.label is None else "
        "r.label.tolist()) for s, r in mini(t).items()] "
        "for t in (*TASKS.values(), AX)]).encode()).hexdigest())"
    )
    digests = set()
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        words = [sys.executable, "-c", code]
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
        digests.add(done.stdout)
    assert len(digests) == 1


@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
@each_pair
def test_words_alone_stay_within_10_points_of_the_majority(task: Task, apart: bool) -> None:
    bound = 0.3 if task.regression else majority(task, rows_of(task.name)["dev"]) + 0.10
    assert words_alone(task, apart) <= bound


@each_model
def test_tokenizer_gives_back_every_sentence_and_knows_every_character(model: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / model)
    for task in ALL:
        texts = rows_of(task.name)[next(iter(task.splits))].first[:300]
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        assert [tokenizer.decode(i).strip() for i in ids] == texts
        assert not any(tokenizer.unk_token_id in i for i in ids)


def test_roberta_pairs_have_its_layout_and_truncate_the_longer() -> None:
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny_roberta")
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>"]) == [0, 1, 2, 3]
    both = tokenizer(["A man."], ["A box."], padding="max_length", max_length=13)["input_ids"][0]
    assert tokenizer.convert_ids_to_tokens(both) == (
        ["<s>", "A", "Ġman", ".", "</s>", "</s>", "A", "Ġbox", ".", "</s>"] + ["<pad>"] * 3
    )
    cut = tokenizer("A man is holding a box.", "A box.", truncation=True, max_length=8)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(cut) == [
        "<s>",
        "A",
        "Ġman",
        "</s>",
        "</s>",
        "A",
        "Ġbox",
        "</s>",
    ]


def test_deberta_pairs_have_its_layout_and_truncate_the_longer() -> None:
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny_deberta")
    assert tokenizer.convert_tokens_to_ids(["[PAD]", "[CLS]", "[SEP]", "[UNK]"]) == [0, 1, 2, 3]
    both = tokenizer(["A man."], ["A box."], padding="max_length", max_length=11)
    assert tokenizer.convert_ids_to_tokens(both["input_ids"][0]) == (
        ["[CLS]", "▁A", "▁man", ".", "[SEP]", "▁A", "▁box", ".", "[SEP]"] + ["[PAD]"] * 2
    )
    assert both["token_type_ids"][0] == [0] * 5 + [1] * 4 + [0] * 2
    assert both["attention_mask"][0] == [1] * 9 + [0] * 2
    cut = tokenizer("A man is holding a box.", "A box.", truncation=True, max_length=7)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(cut) == [
        "[CLS]",
        "▁A",
        "▁man",
        "[SEP]",
        "▁A",
        "▁box",
        "[SEP]",
    ]


def tuned(task: Task, enough: float) -> float:
    """Computes the dev score of tiny_roberta, trained in full from seed 0.

    Stops after the first epoch that gives `enough`.
    """
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny_roberta")
    model = AutoModelForSequenceClassification.from_pretrained(
        ASSETS / "tiny_roberta", num_labels=task.outputs, dtype=torch.float32
    )
    train, dev = rows_of(task.name)["train"], rows_of(task.name)["dev"]
    x = tokenizer(train.first, train.second, padding=True, return_tensors="pt")
    x_dev = tokenizer(dev.first, dev.second, padding=True, return_tensors="pt")
    y = torch.tensor(train.label, dtype=torch.float if task.regression else torch.long)
    steps = EPOCHS * -(-len(train) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / (0.1 * steps), (steps - s) / (0.9 * steps))
    )
    reached = -1.0
    for _ in range(EPOCHS):
        model.train()
        for index in torch.randperm(len(train)).split(BATCH):
            model(**{k: v[index] for k, v in x.items()}, labels=y[index]).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        model.eval()
        with torch.no_grad():
            logits = model(**x_dev).logits
        reached = score(task, dev, (logits[:, 0] if task.regression else logits.argmax(1)).numpy())
        if reached >= enough:
            break
    return reached


@pytest.mark.slow
@each_pair
def test_full_fine_tuning_beats_words_alone_by_15_points(task: Task) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    margin = 0.30 if task.regression else 0.15
    needed = margin + max(words_alone(task, apart=False), words_alone(task, apart=True))
    try:
        assert tuned(task, enough=needed) >= needed
    finally:
        torch.set_num_threads(threads)
