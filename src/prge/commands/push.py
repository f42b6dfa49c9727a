"""What `prge push` does."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

from safetensors import safe_open

from prge.errors import UserError
from prge.files.bounded import SETTINGS, read_bounded
from prge.files.checked import save_checked
from prge.files.typed import to_json
from prge.lora import CONFIG_FILE, WEIGHTS_FILE, adapter_folder, read_config, read_lora
from prge.options import AnyPath, Option
from prge.runtime_driver.program.card import CARD_FILE

_ID = r"[\w.-]+/[\w.-]+"


def push(
    run: Annotated[AnyPath, Option("A run's folder, or a PEFT adapter folder.", argument=True)],
    repo: Annotated[
        str, Option("The repository on the hub: OWNER/NAME. It is made if it is not there.", argument=True)
    ],
    base: Annotated[
        str | None, Option("The base model on the hub, as OWNER/NAME; default: the one that the adapter names.")
    ] = None,
    public: Annotated[bool, Option("Everyone may see a repository that is made now.", ("--public",))] = False,
) -> dict[str, Any]:
    """Put an adapter on the Hugging Face hub: weights, settings and model card, which name no path and no text.

    Returns:
        ``url`` of the commit, ``base``, and ``files``.

    Raises:
        UserError: there is no adapter, its base has no name on the hub, or the hub refuses.
    """
    from prge.models.presets import PRESETS  # a device has no use for it

    folder = adapter_folder(Path(run))
    read_lora(folder)
    config = read_config(folder)
    for name, given in (("REPO", repo), ("--base", base)):
        if given is not None and not re.fullmatch(_ID, given):
            raise UserError(f"{name} {given!r} is no repository; write OWNER/NAME")
    named = str(config.get("base_model_name_or_path"))
    on_hub = base or (PRESETS[named].hub_id if named in PRESETS else named)
    if base is None and (not re.fullmatch(_ID, on_hub) or Path(on_hub).exists()):
        raise UserError(
            f"{folder} was trained on {named!r}, which is not on the hub; add --base OWNER/NAME of that model"
        )
    with tempfile.TemporaryDirectory() as scratch:
        _write_public(folder, Path(scratch), config, named, on_hub)
        return {"url": _upload(Path(scratch), repo, public), "base": on_hub, "files": sorted(os.listdir(scratch))}


def _write_public(folder: Path, out: Path, config: dict[str, Any], named: str, on_hub: str) -> None:
    """Write what everyone may see of an adapter, which names its base as the hub does."""
    with safe_open(folder / WEIGHTS_FILE, "pt") as f:
        about = f.metadata() or {}
        if "base" in about:  # as prge writes it: a folder, maybe
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
            save_checked(out / WEIGHTS_FILE, tensors, about | {"base": on_hub})
        else:
            shutil.copyfile(folder / WEIGHTS_FILE, out / WEIGHTS_FILE)
    shown = config | {"base_model_name_or_path": on_hub}
    (out / CONFIG_FILE).write_text(to_json(shown, indent=2) + "\n", encoding="utf-8")
    if (folder / CARD_FILE).is_file():
        text = read_bounded(folder / CARD_FILE, SETTINGS).decode("utf-8", "replace")
        (out / CARD_FILE).write_text(_card_of(text, named, on_hub), encoding="utf-8")


def _card_of(card: str, named: str, on_hub: str) -> str:
    """A card of ours that names the base as the hub does."""
    name = named if re.fullmatch(_ID, named) else Path(named).name
    card = re.sub(rf"(?<![\w./-]){re.escape(name)}(?![\w./-])", lambda _: on_hub, card)
    if "\nbase_model:" not in card:
        card = card.replace("---\n", f"---\nbase_model: {json.dumps(on_hub)}\n", 1)
        card = card.replace("\ntags:\n", f"\ntags:\n- base_model:adapter:{on_hub}\n", 1)
    return card


def _upload(folder: Path, repo: str, public: bool) -> str:
    """Put a folder's files into a repository, as one commit; returns its address."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi(library_name="prge")
    try:
        api.create_repo(repo, private=not public, exist_ok=True)
        said = api.upload_folder(repo_id=repo, folder_path=folder, commit_message="An adapter that prge trained")
        return str(said.commit_url)
    except LocalTokenNotFoundError as e:
        raise UserError("the hub does not know you: log in with `hf auth login`, or set HF_TOKEN") from e
    except HfHubHTTPError as e:
        status = e.response.status_code if e.response is not None else 0
        hint = "; log in with `hf auth login`, and check that the repository is yours" if status in (401, 403) else ""
        raise UserError(f"the hub refuses {repo}: {' '.join(str(e).split())[:300]}{hint}") from e
