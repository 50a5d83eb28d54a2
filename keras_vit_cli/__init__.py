"""The command line: the one place that joins the model, training and serving.

It is a package of its own so that `keras-vit --help` need not wait for Keras, and so that no room
imports another for its sake.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys

from keras_vit_cli.lean_imports import use_lean_imports

# command -> module and what it does; the module is imported only when the command runs.
COMMANDS = {
    "demo": "train on real digits, export, serve, and check every answer",
    "models": "list the architectures, with their number of parameters",
    "data": "pack images into shards, or show what is in a data set",
    "train": "train a model by a recipe, or go on with a run",
    "evaluate": "measure a model's accuracy; prints one line of JSON",
    "probe": "judge a model's frozen features: few shots, neighbours, a linear layer",
    "explain": "draw which patches an answer was made of, and what a model has learned",
    "export": "write a model as a SavedModel that TF Serving takes as it is",
    "serve": "serve exported models over gRPC",
    "page": "serve a web page to try the models of a server that runs elsewhere",
    "versions": "list the versions of an exported model",
    "promote": "give a label to a version, without losing a request",
    "rollback": "give a label back to the version that had it before",
    "deploy": "write Compose and Kubernetes files that run TF Serving on an export",
    "predict": "ask a server what is in image files, or without one with --offline",
    "bench": "measure: put load on a server",
}


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit with its status.

    Args:
        arguments: what stands after `keras-vit`. Default None: from the command line.

    Raises:
        SystemExit: always at the end of a failed command: 1 for an error, 2 for wrong usage, 130
            after Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(version("keras-vit"))
        return
    command, *rest = arguments
    if command not in COMMANDS:
        print(f"keras-vit: there is no command {command!r}\n\n{usage()}", file=sys.stderr)
        raise SystemExit(2)
    # TensorFlow's C++ notes (missing GPU drivers, CPU features) would hide what matters.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    # TensorFlow leaves it off on processors without AVX-512, which it makes much faster too.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # TensorFlow and Keras leave some million objects, and Python looks for garbage among them: at
    # its own threshold, a fifth of the time of importing them.
    gc.set_threshold(50_000, 20, 20)
    use_lean_imports()
    try:
        importlib.import_module(f"keras_vit_cli.{command}").run(rest)
    except KeyboardInterrupt:
        print("\nkeras-vit: stopped", file=sys.stderr)
        raise SystemExit(130) from None
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] in _EXTRA:
            _fail(f"{error.name} is not installed: pip install 'keras-vit[tensorflow]'")
        raise
    except Exception as error:
        if not _is_expected(error):
            raise
        _fail(str(error))


# What `pip install keras-vit` alone does not bring.
_EXTRA = (
    "keras",
    "tensorflow",
    "tensorflow_datasets",
    "tensorflow_serving",
    "matplotlib",
    "sklearn",
    "PIL",
    "yaml",
)


def _is_expected(error: Exception) -> bool:
    """Whether the message says all: errors about files, and those that our own code raises."""
    if isinstance(error, OSError):
        return True
    innermost = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    rooms = ("keras_vit", "keras_vit_cli", "training", "serving")
    raised_in = innermost.tb_frame.f_globals.get("__name__", "") if innermost else ""
    ours = type(error).__module__.split(".")[0] in rooms
    return ours or (
        isinstance(error, ValueError | RuntimeError) and raised_in.split(".")[0] in rooms
    )


def _fail(message: str) -> None:
    print(f"keras-vit: {message}", file=sys.stderr)
    raise SystemExit(1)


def usage() -> str:
    """The text of `keras-vit --help`."""
    commands = "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
    return (
        "usage: keras-vit COMMAND …\n\n"
        "Vision Transformers in Keras: from any checkpoint, or your own images, to TF Serving.\n\n"
        f"{commands}\n\n"
        "keras-vit COMMAND --help explains a command. The usual way:\n"
        "  keras-vit train folder --data folder:photos --workdir runs/photos\n"
        "  keras-vit evaluate runs/photos --data folder:photos\n"
        "  keras-vit export runs/photos served/photos\n"
        "  keras-vit serve served/photos\n"
        "  keras-vit predict cat.jpg --address localhost:8500 --name photos"
    )
