"""A push leaves on the hub what lies in the folder, or says what to do, and never half of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
from hub_server import TOKEN, Hub, serving
from trained_runs import Trained, dora_run

from dora import export as export_command
from dora.errors import UserError

NAME = "me/rte-dora"
Export = Callable[..., int | str | None]


@pytest.fixture(scope="module")
def one() -> Trained:
    return dora_run()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub
    huggingface_hub.close_session()


@pytest.fixture
def export(one: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Export:
    """Returns a function of words that exports the run to tmp_path/out in this process.

    It returns what `python -m dora.export` exits with.
    """

    def exported(*words: str) -> int | str | None:
        monkeypatch.setattr(
            sys, "argv", ["dora.export", str(one.folder), "--to", str(tmp_path / "out"), *words]
        )
        try:
            export_command.main()
        except SystemExit as e:
            return e.code
        except UserError as e:  # of which `command` makes the same
            print(e, file=sys.stderr)
            return e.exit_code
        return None

    return exported


def test_the_repository_holds_the_folders_files_and_names_itself(
    export: Export, one: Trained, hub: Hub, tmp_path: Path
) -> None:
    assert export("--push", NAME, "--private") is None
    held = dict(hub.repositories[NAME])
    del held[".gitattributes"]
    assert held == {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    needed = {"adapter_model.safetensors", "model.safetensors", "config.json", "tokenizer.json"}
    assert needed | {"README.md"} < held.keys()
    assert json.loads(held["adapter_config.json"])["base_model_name_or_path"] == NAME
    assert f'here = "{NAME}"\n' in held["README.md"].decode()
    assert hub.private == {NAME: True}
    assert hub.messages == ["Run exported by dora-glue 0.1.0"]
    # Where the run and its base model lie is nobody's business.
    places = [str(place).encode() for place in (one.folder, one.base, tmp_path)]
    assert [name for name, c in held.items() if any(place in c for place in places)] == []


def test_the_card_is_validated_before_anything_is_created(
    export: Export, hub: Hub, tmp_path: Path
) -> None:
    hub.answers["/api/validate-yaml"] = 400
    code = export("--push", NAME)
    assert str(code).startswith(f"not pushed: {NAME}: the hub refuses the card")
    assert f"\nonce that is mended: hf upload {NAME} {tmp_path / 'out'}" in str(code)
    assert (tmp_path / "out" / "README.md").exists()
    assert not any("create" in request or "commit" in request for request in hub.requests)


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/api/whoami-v2", 401, "the hub refuses the token: make a new one"),
        ("/api/whoami-v2", 403, "the token has no right to write there: use one with write access"),
        (f"/api/models/{NAME}/tree", 410, "the hub answers 410"),  # some are tried again
    ],
)
def test_what_the_hub_refuses_at_first_is_told_before_anything_is_written(
    path: str,
    status: int,
    said: str,
    export: Export,
    hub: Hub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.answers[path] = status
    assert export("--push", NAME) == 2
    assert f"nothing exported: {NAME}: {said}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_right_to_create_leaves_the_folder_and_says_how_to_go_on(
    export: Export, one: Trained, hub: Hub, tmp_path: Path
) -> None:
    hub.answers["/api/repos/create"] = 403
    said = str(export("--push", "them/x", "--private"))
    assert "use one with write access to them" in said
    assert said.endswith(f"hf upload them/x {tmp_path / 'out'} --private")


def test_a_repository_with_files_is_left_alone(
    export: Export, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repositories[NAME] = {".gitattributes": b"", "model.safetensors": b"theirs"}
    assert export("--push", NAME) == 2
    assert "holds 1 files, and nothing is overwritten" in capsys.readouterr().err
    assert hub.repositories[NAME]["model.safetensors"] == b"theirs"


def test_without_token_or_network_one_line_says_so(
    export: Export,
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert export("--push", NAME) == 2
    assert "no token for the hub: hf auth login, or HF_TOKEN=TOKEN" in capsys.readouterr().err
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: TOKEN)
    # Port 9 of this machine answers nobody.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert export("--push", NAME) == 2
    assert f"{NAME}: http://127.0.0.1:9 is not reached" in capsys.readouterr().err
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert export("--push", NAME) == 2
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--push", "name"], "--push name must be ORG/NAME"),
        (["--push", "a/b/c"], "--push a/b/c must be ORG/NAME"),
        (["--private"], "--private goes with --push ORG/NAME"),
        (["--license", "My Own"], "--license My Own is no licence's name"),
    ],
)
def test_options_that_cannot_be_right_are_told_first(
    words: list[str],
    said: str,
    export: Export,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert export(*words) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_adapter_alone_on_a_folder_of_this_machine_is_not_pushed(
    export: Export, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export("--push", NAME, "--adapter-only") == 2
    assert "the base model is a folder of this machine" in capsys.readouterr().err
    assert not hub.repositories
