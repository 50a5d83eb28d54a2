"""`keras-vit deploy`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from keras_vit_cli.arguments import call


def deploy(
    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")],
    base: Path,
    name: str | None = None,
    image: str | None = None,
    replicas: int = 2,
    max_replicas: int = 8,
    in_flight: int = 8,
    gpu: bool = False,
    cpus: float = 4.0,
    memory: float = 4.0,
    pack_weights: bool = False,
    connection_age: int = 30,
    drain: int = 60,
    overwrite: bool = False,
) -> None:
    """Write into DIR what runs an exported model in containers: Compose, Kubernetes, a README.

    Nothing is started. The files are yours to change and to keep under version control.

    Args:
        directory: where to write; other files in it stay.
        base: what `keras-vit export MODEL BASE` wrote: BASE/1, BASE/2, …
        name: what clients call the model; the directory's name if left out.
        image: a container image of TF Serving; tensorflow/serving:2.20.0 if left out, with --gpu
            tensorflow/serving:2.20.0-gpu.
        replicas: servers that always run on Kubernetes.
        max_replicas: servers at most.
        in_flight: requests at a time for each server, above which another server is added.
        gpu: give each server a GPU.
        cpus: cores of each server.
        memory: of each server, in GiB; it has to hold two versions.
        pack_weights: keep packed copies of the weights, one for each of the six signatures, for
            which memory has to suffice too. In bfloat16 on processors with AMX 1.4 times as fast.
        connection_age: seconds after which a client has to connect anew, and finds new servers.
        drain: seconds that a server still answers when it is to go; longer than connection_age.
        overwrite: replace files that are there.
    """
    from serving.configuration.batching import BATCHING_FILE
    from serving.deployment.settings import IMAGE, Deployment
    from serving.deployment.write import write_deployment
    from serving.startup import check_base

    base = base.resolve()
    check_base(base)
    deployment = Deployment(
        base,
        base.name if name is None else name,
        image=image or (f"{IMAGE}-gpu" if gpu else IMAGE),
        replicas=replicas,
        max_replicas=max_replicas,
        in_flight=in_flight,
        gpu=gpu,
        cpus=cpus,
        memory=memory,
        pack_weights=pack_weights,
        connection_age=connection_age,
        drain=drain,
    )
    for path in write_deployment(deployment, directory, overwrite=overwrite):
        print(path)
    if not any(base.glob(f"*/{BATCHING_FILE}")):
        print(f"note: no version holds {BATCHING_FILE}: requests will not be batched")
    print(f"next: see {directory / 'README.md'}")


def run(arguments: list[str]) -> None:
    """Run the command."""
    call(deploy, "deploy", arguments)
