"""Start the processes that train together: by torchrun on this node, or by a job of SLURM."""

import os
from collections.abc import Sequence
from types import ModuleType

from config.params import Runtime
from jobs.cluster import torchrun
from jobs.stage import Terminated


def launched(module: str, arguments: Sequence[str], *, world_size: int, runtime: Runtime) -> bool:
    """Run the stage `module` in `world_size` processes and return True; False where this process is to do the work itself.

    A single process does, and so does one that torchrun has started. SIGTERM goes on to the processes, which save and
    end; they do not outlive this one. On several nodes each calls this and starts its share. Raises `Terminated` after
    SIGTERM, ValueError when the processes cannot be started or are lost for good, and SystemExit when torchrun has
    printed what to mend.
    """
    if torchrun.rank() is not None or (runtime.launcher == "local" and runtime.nodes == world_size == 1):
        return False
    job = "-".join([module.rpartition(".")[2], *arguments])
    if runtime.launcher == "slurm":
        _slurm().run_job(job, module, arguments, world_size=world_size, runtime=runtime)
        return True
    if os.environ.get("PET_NNODES", str(runtime.nodes)) != str(runtime.nodes):
        raise ValueError(
            f"PET_NNODES: got {os.environ['PET_NNODES']}, but runtime.yaml has nodes: {runtime.nodes}; set nodes and "
            "rendezvous there and unset the variable"
        )
    words = torchrun.command(
        job,
        module,
        arguments,
        world_size=world_size,
        nodes=runtime.nodes,
        rendezvous=runtime.rendezvous,
        restarts=runtime.restarts,
        join_seconds=runtime.join_seconds,
    )
    child = torchrun.Child(words, writes="DVC_STAGE" in os.environ)
    code = child.wait()
    if code and child.was_stopped:
        raise Terminated
    if code == torchrun.MISTAKE:
        raise SystemExit(1)
    if code == torchrun.SAVED:
        raise ValueError("SIGTERM ended one of the processes, and all have saved; start the job again, on every node")
    if code:
        raise ValueError(
            f"the {world_size} processes ended early (torchrun's exit code is {code}), see the output above; fix it and "
            "run again: training resumes from the last checkpoint"
        )
    return True


def _slurm() -> ModuleType:
    """The module that needs submitit."""
    try:
        from jobs.cluster import slurm
    except ModuleNotFoundError as error:
        if error.name != "submitit":
            raise
        raise ValueError("launcher: slurm needs the package submitit: pip install 'semmae[slurm]'") from None
    return slurm
