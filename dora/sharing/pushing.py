"""An exported folder on the Hugging Face Hub, through huggingface_hub and the token it finds.

Nothing is created there before the folder is written whole, its weights are readable and the hub
has accepted its card.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dora.adapters.peft_config import hub_name
from dora.checked_files import check_safetensors, read_object
from dora.errors import UserError, reason

# The hub makes this file itself, with a repository.
_OWN = {".gitattributes"}
_REASONS = {
    401: "the hub refuses the token: make a new one, then hf auth login --force, or HF_TOKEN=TOKEN",
    403: "the token has no right to write there: use one with write access to {owner}",
    409: "it is there already, as something else",
}


def name_problem(repository: str) -> str | None:
    """Returns why `repository` can be none of the hub's, or None."""
    if hub_name(repository) is not None and "/" in repository:
        return None
    return f"--push {repository} must be ORG/NAME: your name or organisation on the hub, and a name"


def check(repository: str) -> None:
    """Asks the hub whether the folder may be pushed, before anything is written.

    Raises UserError where there is no token, the hub is not reached, or the repository holds files.
    """
    from huggingface_hub import HfApi, constants, get_token  # late: it takes 0.1 s
    from huggingface_hub.errors import RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise UserError("HF_HUB_OFFLINE is set: unset it to push to the hub")
    if get_token() is None:
        raise UserError(
            "no token for the hub: hf auth login, or HF_TOKEN=TOKEN; it needs the right to write"
        )
    with _explained(repository):
        api = HfApi()
        api.whoami()
        try:
            held = set(api.list_repo_files(repository)) - _OWN
        except RepositoryNotFoundError:
            return
    if held:
        raise UserError(
            f"{repository} is on the hub already and holds {len(held)} files, and nothing is "
            "overwritten: name another repository"
        )


def push(folder: Path, repository: str, private: bool, message: str) -> str:
    """Creates the repository, uploads the folder, and returns its address.

    `message`: of the commit. Raises UserError where a file of the folder cannot be read, the hub
    refuses the card, or the upload fails.
    """
    from huggingface_hub import HfApi, ModelCard

    for file in folder.iterdir():
        if file.suffix == ".safetensors":
            check_safetensors(file)
        elif file.suffix == ".json":
            read_object(file)
    with _explained(repository):
        ModelCard.load(folder / "README.md").validate()
        api = HfApi()
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    return str(address)


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    """Turns an error of the hub, or of the network, into a UserError."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    try:
        yield
    except HfHubHTTPError as e:  # the hub has answered
        code = e.response.status_code
        owner = repository.partition("/")[0]
        said = " ".join((e.server_message or str(e)).split())[:200]
        why = _REASONS.get(code, "the hub answers {code}").format(owner=owner, code=code)
        raise UserError(f"{repository}: {why} ({said})") from e
    except (HTTPError, OSError) as e:
        raise UserError(
            f"{repository}: {constants.ENDPOINT} is not reached ({reason(e)}); try again later"
        ) from e
    except ValueError as e:  # as ModelCard.validate raises it
        raise UserError(f"{repository}: the hub refuses the card: {e}") from e
