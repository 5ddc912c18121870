"""Work with MLflow in processes of its own: MLflow keeps a database open, so one that is moved would be written on."""

import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from config.redaction import one_line
from pipeline.tracking.client import be_quiet

R = TypeVar("R")


def apart(function: Callable[..., R], *arguments: object) -> R:
    """What `function` of a module returns, in a new process with this folder and environment; its errors are a ValueError."""
    be_quiet()
    # Forks of a process that has imported MLflow, which takes seconds, and has opened no database.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mlflow.store.tracking.sqlalchemy_store"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_run, dict(os.environ), function, arguments).result()


def _run(environment: Mapping[str, str], function: Callable[..., R], arguments: tuple[object, ...]) -> R:
    os.environ.clear()
    os.environ.update(environment)
    try:
        return function(*arguments)
    except Exception as error:  # not every one of MLflow's can be sent to another process
        raise ValueError(one_line(error)) from None
