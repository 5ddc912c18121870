"""The fixture `mark` of tests/pipeline, for the tests of supervision."""

from tests.pipeline.conftest import mark

__all__ = ["mark"]
