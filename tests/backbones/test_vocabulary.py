"""A tokenizer is whole and its model's own, or the run is refused before it begins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordPiece

from dora.backbones.backbone import Folder, load_tokenizer
from dora.errors import UserError
from folders import MARKS, WORDS, edit, model_folder, prepared
from runs import run, small

# A token as tokenizer_config.json lists it under added_tokens_decoder.
ADDED = {
    "content": "<new>",
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "single_word": False,
    "special": False,
}


def tokenizer_json(folder: Path, tokens: list[str]) -> None:
    """Writes a tokenizer.json that knows these tokens alone."""
    Tokenizer(WordPiece({t: i for i, t in enumerate(tokens)}, unk_token="[UNK]")).save(
        str(folder / "tokenizer.json")
    )


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json"])
def test_a_vocabulary_without_a_word_is_refused(name: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "bert")
    if name == "vocab.txt":
        # Every text would become [UNK]: training runs, and learns nothing.
        (folder / name).write_text("\n".join(MARKS))
    else:
        tokenizer_json(folder, MARKS)
    with pytest.raises(UserError, match=r"the tokenizer in .* knows 5 tokens and no words"):
        prepared(folder, tmp_path)


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json"])
def test_ids_beyond_the_embedding_are_refused(name: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "bert")
    # The embedding has 60 rows. On a GPU an id beyond it ends in an assertion without a name.
    many = [*MARKS, *WORDS, *(f"word{i}" for i in range(60))]
    if name == "vocab.txt":
        (folder / name).write_text("\n".join(many))
    else:
        tokenizer_json(folder, many)
    with pytest.raises(UserError, match=r"has ids up to 72, the model's embedding has 60 rows"):
        prepared(folder, tmp_path)


def test_a_token_that_only_transformers_adds_counts_too(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "bert")
    (folder / "vocab.txt").write_text("\n".join([*MARKS, *(f"word{i}" for i in range(55))]))
    prepared(folder, tmp_path)
    # No file lists its id: Transformers gives it the next free one, 60, when it loads the
    # tokenizer.
    edit(folder / "tokenizer_config.json", mask_token="<another>")
    with pytest.raises(UserError, match="has ids up to 60, the model's embedding has 60 rows"):
        prepared(folder, tmp_path)


@pytest.mark.parametrize("how", ["added_tokens.json", "added_tokens_decoder", "no number"])
@pytest.mark.parametrize("kind", ["vocab.txt", "tokenizer.json"])
def test_the_id_that_a_file_lists_for_an_added_token_is_not_used(
    kind: str, how: str, tmp_path: Path
) -> None:
    folder = model_folder(tmp_path / "m", "bert")
    if kind == "tokenizer.json":
        tokenizer_json(folder, [*MARKS, *WORDS])
    before = load_tokenizer(Folder(folder, False))("the film was good .")["input_ids"]
    if how == "added_tokens_decoder":
        edit(folder / "tokenizer_config.json", added_tokens_decoder={"72": ADDED})
    else:
        (folder / "added_tokens.json").write_text(
            json.dumps({"<new>": 72} if how == "added_tokens.json" else {"film": "b"})
        )
    prepared(folder, tmp_path)
    after = load_tokenizer(Folder(folder, False))
    assert after("the film was good .")["input_ids"] == before
    # Transformers takes the next free id.
    assert max(after("the film was <new> good .")["input_ids"]) <= len([*MARKS, *WORDS])


def test_every_problem_of_a_tokenizer_comes_with_those_of_other_settings(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "bert")
    words = ("method=lora", "budget=r9999")
    (folder / "vocab.txt").write_text("\n".join([*MARKS, *(f"word{i}" for i in range(60))]))
    edit(folder / "tokenizer_config.json", pad_token=None)
    edit(folder / "config.json", pad_token_id=None)
    with pytest.raises(UserError, match=r"(?s)ids up to 64, .*no padding token.*r9999"):
        prepared(folder, tmp_path, words)
    (folder / "special_tokens_map.json").write_text("{")
    (folder / "added_tokens.json").write_text("[]")
    with pytest.raises(
        UserError, match=r"(?s)tokens_map.json cannot be read.*added_tokens.json holds a.*r9999"
    ):
        prepared(folder, tmp_path, words)


@pytest.mark.parametrize(
    ("kind", "name", "text"),
    [
        # Cut short, of another shape, or empty; then every other file of each kind of tokenizer.
        ("bert", "tokenizer.json", '{"version": "1.0", "model": {"vo'),
        ("bert", "tokenizer.json", '{"version": "1.0"}'),
        ("bert", "tokenizer.json", "[]"),
        ("bert", "tokenizer.json", ""),
        ("bert", "tokenizer_config.json", '{"a'),
        ("bert", "tokenizer_config.json", "[]"),
        ("bert", "special_tokens_map.json", "{"),
        ("bert", "added_tokens.json", '["a"]'),
        ("roberta", "vocab.json", '{"a": 1, "b'),
        ("roberta", "vocab.json", '{"a": "b"}'),
        ("roberta", "merges.txt", "#version: 0.2\nt h o u\n"),
        ("deberta-v2", "spm.model", "half"),
        ("deberta-v2", "spm.model", ""),
    ],
)
def test_a_file_of_the_tokenizer_that_is_damaged_is_named(
    kind: str, name: str, text: str, tmp_path: Path
) -> None:
    folder = model_folder(tmp_path / "m", kind)
    (folder / name).write_text(text)
    with pytest.raises(
        UserError,
        match=rf"{name} (cannot be read|holds a)|the tokenizer in .* cannot be read from .*{name}",
    ):
        prepared(folder, tmp_path)


# Cut at three places: a protobuf has no checksum of its own.
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_sentencepiece_model_cut_short_is_named(share: float, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "deberta-v2")
    whole = (folder / "spm.model").read_bytes()
    (folder / "spm.model").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match=r"spm\.model cannot be read"):
        prepared(folder, tmp_path)


def test_a_tokenizer_that_transformers_cannot_make_is_a_mistake(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "bert")
    # Well-formed JSON, so only Transformers can tell.
    edit(folder / "tokenizer_config.json", added_tokens_decoder={"3": "not a token"})
    with pytest.raises(
        UserError,
        match=r"the tokenizer in .* cannot be read from vocab.txt, tokenizer_config.json \(.*\); use",
    ):
        prepared(folder, tmp_path)


def test_the_configs_padding_stands_in_for_a_tokenizers(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "bert")
    # As GPT-style tokenizers are saved. Which id pads is then for config.json to say.
    edit(folder / "tokenizer_config.json", pad_token=None)
    edit(folder / "config.json", pad_token_id=7)
    prepared(folder, tmp_path)
    assert load_tokenizer(Folder(folder, False)).pad_token_id == 7
    edit(folder / "config.json", pad_token_id=None)
    with pytest.raises(
        UserError,
        match=r"no padding token \(pad_token is null\), and config.json's pad_token_id names none",
    ):
        prepared(folder, tmp_path)
    edit(folder / "config.json", pad_token_id=50)  # a row of the embedding that no token has
    with pytest.raises(UserError, match="no padding token"):
        prepared(folder, tmp_path)


# The little vocabulary of the folder, MARKS and WORDS, has hardly a word of WNLI's.
def test_a_split_of_unknown_tokens_is_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "bert")
    with pytest.raises(
        UserError,
        match=rf"7\d % of the tokens of wnli's train are unknown to the tokenizer of {folder}",
    ):
        run(small(tmp_path, f"model.path={folder}", "method=lora", "budget=r1", "max_steps=4"))


def test_a_tokenizer_that_drops_what_it_does_not_know_is_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "roberta")
    (folder / "vocab.json").write_text(
        # A byte-level encoding has no unknown token: bytes that its vocabulary lacks disappear.
        json.dumps({t: i for i, t in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "☃"])})
    )
    (folder / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(UserError, match=r"0 are left for \d+ rows"):
        run(small(tmp_path, f"model.path={folder}", "method=lora", "budget=r1", "max_steps=4"))


@pytest.mark.parametrize("mark", ["[UNK]", "[CLS]", "[SEP]"])
def test_a_vocabulary_without_a_special_token_is_refused(mark: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "bert")
    # The ids after it move down by one as well: their rows of the embedding are other tokens'.
    (folder / "vocab.txt").write_text("\n".join(t for t in [*MARKS, *WORDS] if t != mark))
    with pytest.raises(UserError, match=rf"vocab.txt has no \{mark[:-1]}\]: it is cut short"):
        prepared(folder, tmp_path)


def test_a_special_token_of_another_name_is_looked_for_by_it(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "bert")
    (folder / "vocab.txt").write_text(
        "\n".join(["<u>" if t == "[UNK]" else t for t in [*MARKS, *WORDS]])
    )
    # Both spellings occur: a text, and an object of settings.
    edit(folder / "tokenizer_config.json", unk_token={"content": "<u>", "__type": "AddedToken"})
    prepared(folder, tmp_path)


@pytest.mark.parametrize("name", ["merges.txt", "tokenizer.json"])
def test_a_byte_pair_encoding_without_its_merges_is_refused(name: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "roberta")
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *"abcdefgh", "ab", "abc", "ef", "efg", "<mask>"]
    ids = {token: i for i, token in enumerate(tokens)}
    merges = [("a", "b"), ("ab", "c"), ("e", "f"), ("ef", "g")]
    # With all merges the folder is sound, so that it is their lack that is refused.
    for held in (merges, merges[:2]):
        if name == "merges.txt":
            (folder / "vocab.json").write_text(json.dumps(ids))
            (folder / name).write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in held))
        else:
            Tokenizer(BPE(ids, held)).save(str(folder / name))
        if held == merges:
            prepared(folder, tmp_path)
    with pytest.raises(
        UserError, match=r"has 2 merges for 4 tokens of several letters: they are cut short"
    ):
        prepared(folder, tmp_path)


def test_a_roberta_that_counts_positions_from_another_id_is_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "roberta")
    # The first position would be 1 and not 2: every row of the position table shifted by one.
    edit(folder / "config.json", pad_token_id=0)
    with pytest.raises(UserError, match=r"pads with id 1, config.json says pad_token_id=0"):
        prepared(folder, tmp_path)


def test_a_tokenizer_written_in_python_is_taken(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "roberta")
    # BERTweet's vocabulary lists words with their counts, and its class adds the special tokens.
    edit(folder / "tokenizer_config.json", tokenizer_class="BertweetTokenizer")
    (folder / "vocab.txt").write_text("the 5\nfilm 4\n")
    (folder / "bpe.codes").write_text("t h 5\n")
    prepared(folder, tmp_path)
    assert not load_tokenizer(Folder(folder, False)).is_fast
