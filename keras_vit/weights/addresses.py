"""Turning the address of a checkpoint into a path on this machine."""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import urllib.parse
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from keras_vit.weights import download
from keras_vit.weights.progress import readable_size

_SCHEMES = ("hf://", "https://", "http://", "gs://")
_HUB_ADDRESS = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>refs/pr/\d+|[^/@?#\s]+))?"
    r"(?:/+(?P<file>[^?#]*?))?/*",
    re.ASCII,
)
_CONFIGS = ("config.json", "preprocessor_config.json", "processor_config.json")
_HUB = "https://huggingface.co"
_HUB_TIMEOUT = 30.0  # seconds without an answer


def is_address(source: str) -> bool:
    """Whether a source is an address that `fetch` understands, and not a path.

    Args:
        source: what the user named.

    Returns:
        True for `hf://`, `https://`, `http://` and `gs://`.

    Example:
        >>> is_address("hf://google/vit-base-patch16-224"), is_address("checkpoints/B_16.npz")
        (True, False)
    """
    return source.lower().startswith(_SCHEMES)


def fetch(
    source: str,
    *,
    offline: bool | None = None,
    cache_dir: str | Path | None = None,
    report: Callable[[str], None] | None = None,
) -> Path:
    """Bring what an address names to this machine, once, and say where it is.

    Args:
        source: one of

            - `hf://org/name[@revision]`: a repository of the Hugging Face Hub. Its configuration
              and its weights are fetched: safetensors, else `pytorch_model.bin`, else the .npz.
            - `hf://org/name[@revision]/path/in/repo.npz`: one file of it. Slashes in a revision are
              written `%2F`.
            - `https://host/path` (`http://` from this machine only) or `gs://bucket/path`: one
              file. `#sha256=<64 hex digits>` at the end makes sure of what it holds.
        offline: whether to use the cache only. Default: what the environment variables
            `KERAS_VIT_OFFLINE` and `HF_HUB_OFFLINE` say, else no.
        cache_dir: the cache. Default for `hf://` what `HF_HUB_CACHE` and `HF_HOME` say, the
            cache that every Hugging Face library shares; for other addresses `KERAS_VIT_CACHE`,
            else `~/.cache/keras-vit`.
        report: gets lines about the progress when there is no terminal to draw a bar on.

    Returns:
        A folder for a repository, a file for everything else.

    Raises:
        ValueError: if it cannot be had; the message names the address, says what happened and
            what to do.

    Example:
        >>> fetch("hf://google/vit-base-patch16-224", offline=True, cache_dir="/nowhere")
        Traceback (most recent call last):
          ...
        ValueError: hf://google/vit-base-patch16-224 is not in the cache /nowhere, and ...
    """
    if not is_address(source):
        raise ValueError(f"{source!r} is not an address: it must start with {', '.join(_SCHEMES)}.")
    if offline is None:
        offline = _is_set("KERAS_VIT_OFFLINE") or _is_set("HF_HUB_OFFLINE")
    if source.lower().startswith("hf://"):
        return _Hub(source, cache_dir, report).fetch(offline)
    cache = cache_dir or os.environ.get("KERAS_VIT_CACHE") or "~/.cache/keras-vit"
    return download.download(
        source, offline=offline, cache_dir=Path(cache).expanduser(), report=report
    )


def choose_files(names: Collection[str]) -> list[str]:
    """Which files of a repository make a checkpoint, as little as possible of it.

    Args:
        names: every file of the repository.

    Returns:
        The configuration, if there is one, and the weights in one format.

    Raises:
        ValueError: if there are no weights, or several to choose from.

    Example:
        >>> choose_files(["config.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5"])
        ['config.json', 'model.safetensors']
    """
    top = sorted(name for name in names if "/" not in name)
    configs = [name for name in _CONFIGS if name in top]
    # Safetensors first: they hold nothing but arrays, whereas a .bin is a pickle.
    if "model.safetensors" in top:
        return [*configs, "model.safetensors"]
    if "model.safetensors.index.json" in top:
        shards = [name for name in top if re.fullmatch(r"model-\d+-of-\d+\.safetensors", name)]
        return [*configs, "model.safetensors.index.json", *shards]
    for candidates in (
        [name for name in top if name.endswith(".safetensors")],
        [name for name in top if name == "pytorch_model.bin"],
        [name for name in top if name.endswith(".npz")],
    ):
        if len(candidates) == 1:
            return [*configs, *candidates]
        if candidates:
            raise ValueError(f"it holds several checkpoints ({', '.join(candidates)})")
    found = ", ".join(sorted(names)[:10]) or "nothing"
    raise ValueError(
        "it holds no weights that can be read (model.safetensors, pytorch_model.bin or an .npz): "
        f"there is {found}{', …' if len(names) > 10 else ''}"
    )


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() in {"1", "true", "yes", "on"}


@dataclass
class _Hub:
    """A repository of the Hugging Face Hub, or a file of one."""

    source: str
    cache_dir: str | Path | None
    report: Callable[[str], None] | None

    def __post_init__(self) -> None:
        match = _HUB_ADDRESS.fullmatch(self.source[len("hf://") :])
        parts = match["repo"].split("/") if match else []
        self.repo = match["repo"] if match else ""
        self.revision = urllib.parse.unquote((match and match["revision"]) or "main")
        self.file = (match and match["file"]) or None
        parts += self.revision.split("/") + (self.file.split("/") if self.file else [])
        # The parts become paths below the cache: none of them may lead out of it.
        if not match or any(part in {"", ".", ".."} or "\\" in part for part in parts):
            raise ValueError(
                f"{self.source} is not an address of the Hugging Face Hub: it must read "
                f"hf://org/name, hf://org/name@revision or hf://org/name/path/of/a/file."
            )
        # The library reads its environment once, when it is imported; what is set now must count.
        home = os.environ.get("HF_HOME")
        cache = self.cache_dir or os.environ.get("HF_HUB_CACHE") or (home and f"{home}/hub")
        self.cache = Path(os.path.expandvars(cache)).expanduser() if cache else None
        self.endpoint = (os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None

    def fetch(self, offline: bool) -> Path:
        try:
            import huggingface_hub
            from huggingface_hub import errors
        except ImportError as error:
            raise ValueError(
                f"{self.source} needs the package huggingface_hub: `pip install huggingface_hub`."
            ) from error
        if self.cache is None:
            self.cache = Path(huggingface_hub.constants.HF_HUB_CACHE)
        try:
            if not offline:
                return self._online()
            found = self._cached()
        except errors.HFValidationError as error:
            raise ValueError(f"{self.source}: {_first_line(error)}") from error
        if found is None:
            raise ValueError(
                f"{self.source} is not in the cache {self.cache}, and offline mode is on. "
                f"{self._how_to_fill()}"
            )
        return found

    def _online(self) -> Path:
        from huggingface_hub import errors

        # hf_xet, which moves the large files, raises a RuntimeError of its own in some versions.
        transfer_failed = getattr(errors, "XetDownloadError", RuntimeError)
        try:
            return self._one_file() if self.file else self._snapshot()
        except errors.LocalEntryNotFoundError as error:
            raise self._unreachable(error.__cause__ or error) from error
        except errors.HTTPError as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status is not None and status < 500:
                raise ValueError(f"{self.source}: {self._refusal(error, status)}") from error
            # A cached copy is as good as it was yesterday: no network is no reason to stop.
            found = self._cached()
            if found is None:
                raise self._unreachable(error) from error
            self._say(
                f"{self.source}: the Hub is not there ({_first_line(error)}); using the cache"
            )
            return found
        except (transfer_failed, RuntimeError) as error:
            raise ValueError(
                f"{self.source}: the transfer failed ({_first_line(error)}). Run it again: it goes "
                f"on where it stopped. HF_HUB_DISABLE_XET=1 takes another way."
            ) from error
        except OSError as error:
            if error.errno in download.FULL_DISK:
                raise ValueError(
                    f"{self.source}: the disk of {self.cache} is full. Make room, or point "
                    f"HF_HUB_CACHE to a larger disk, and run it again: it goes on where it stopped."
                ) from error
            if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}:
                raise ValueError(
                    f"{self.source}: the cache {self.cache} cannot be written ({error}). Point "
                    f"HF_HUB_CACHE to a folder of yours."
                ) from error
            raise ValueError(f"{self.source}: {_first_line(error)}") from error

    def _one_file(self) -> Path:
        from huggingface_hub import hf_hub_download

        assert self.file is not None
        # Asked for first, because the library tries for half a minute when there is no network.
        if self.file not in self._list():
            raise ValueError(
                f"{self.source}: the repository has no file {self.file!r}: see "
                f"{self.endpoint or _HUB}/{self.repo}/tree/{self.revision}."
            )
        return Path(
            hf_hub_download(
                self.repo,
                self.file,
                revision=self.revision,
                cache_dir=self.cache,
                endpoint=self.endpoint,
            )
        )

    def _list(self) -> dict[str, int]:
        """The repository's files and their sizes."""
        from huggingface_hub import HfApi

        info = HfApi(endpoint=self.endpoint).model_info(
            self.repo, revision=self.revision, timeout=_HUB_TIMEOUT, files_metadata=True
        )
        return {file.rfilename: file.size or 0 for file in info.siblings or []}

    def _snapshot(self) -> Path:
        from huggingface_hub import snapshot_download

        sizes = self._list()
        try:
            files = choose_files(sizes)
        except ValueError as error:
            raise self._no_choice(error) from error
        total = readable_size(sum(sizes[file] for file in files))
        self._say(f"{self.source}: {len(files)} files, {total}: {', '.join(files)}")
        folder = Path(
            snapshot_download(
                self.repo,
                revision=self.revision,
                cache_dir=self.cache,
                endpoint=self.endpoint,
                allow_patterns=[glob.escape(file) for file in files],
            )
        )
        missing = [file for file in files if not (folder / file).is_file()]
        if missing:  # the library falls back on what is cached when the Hub fails in between
            raise ValueError(
                f"{self.source}: {', '.join(missing)} did not arrive in {folder}. Run it again."
            )
        return folder

    def _cached(self) -> Path | None:
        """What is wanted, if the cache holds all of it."""
        from huggingface_hub import hf_hub_download, snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            if self.file:
                return Path(
                    hf_hub_download(
                        self.repo,
                        self.file,
                        revision=self.revision,
                        cache_dir=self.cache,
                        local_files_only=True,
                    )
                )
            # The library looks only whether the files match its list of the repository, if it
            # has one. It may be older than such lists, and need not be the weights we prefer.
            folder = Path(
                snapshot_download(
                    self.repo,
                    revision=self.revision,
                    cache_dir=self.cache,
                    local_files_only=True,
                    allow_patterns=list(_CONFIGS),
                )
            )
        except LocalEntryNotFoundError:
            return None
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
        try:
            files = choose_files([name for name in names if (folder / name).is_file()])
        except ValueError as error:
            if "several" in str(error):
                raise self._no_choice(error) from error
            return None
        index = folder / "model.safetensors.index.json"
        if index.name in files:
            try:
                shards = set(json.loads(index.read_text())["weight_map"].values())
            except (AttributeError, KeyError, OSError, TypeError, ValueError):
                return None
            if not shards <= set(files):
                return None
        return folder

    def _no_choice(self, error: ValueError) -> ValueError:
        hint = f"Name one file of it: hf://{self.repo}/<path of the file>"
        return ValueError(f"{self.source} cannot be used, {error}. {hint}.")

    def _refusal(self, error: Exception, status: int) -> str:
        """What the Hub's answer means, and what to do."""
        from huggingface_hub import errors

        where = self.endpoint or _HUB
        page = f"{where}/{self.repo}"
        token = "set HF_TOKEN to a token of an account that may read it"
        if isinstance(error, errors.GatedRepoError):
            return f"the repository is gated: accept its terms at {page}, then {token}."
        if isinstance(error, errors.RepositoryNotFoundError):
            return f"there is no repository {page}, or it is private: check the name, or {token}."
        if isinstance(error, errors.RevisionNotFoundError):
            return f"the repository has no revision {self.revision!r}: see {page}/commits/main."
        if status in {401, 403}:
            return f"the Hub refused it (HTTP {status}), it is gated or private: {token}."
        if status == 429:
            return "the Hub asks for fewer requests (HTTP 429): wait some minutes, or set HF_TOKEN."
        return f"{where} answered HTTP {status} ({_first_line(error)}): check the name."

    def _unreachable(self, error: BaseException) -> ValueError:
        where = self.endpoint or _HUB
        return ValueError(
            f"{self.source}: {where} cannot be reached ({_first_line(error)}), and it is not in "
            f"the cache {self.cache}. Check the connection. {self._how_to_fill()}"
        )

    def _how_to_fill(self) -> str:
        folder = f"models--{self.repo.replace('/', '--')}"
        return (
            f"Fetch it once where there is a network, without KERAS_VIT_OFFLINE and "
            f"HF_HUB_OFFLINE, and copy {folder} into {self.cache}; or give the path of a copy."
        )

    def _say(self, line: str) -> None:
        if self.report is not None:
            self.report(line)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]
