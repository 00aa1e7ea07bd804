"""Shape annotations are checked at run time in all tests; randomness comes from explicit generators."""

import os

import jaxtyping
import pytest
import torch

os.environ.setdefault("TQDM_DISABLE", "1")  # before anything imports tqdm
jaxtyping.install_import_hook("icl_lib", "typechecking.check")


@pytest.fixture(autouse=True)
def one_thread():
    """Workers run side by side, and sums do not depend on the number of cores."""
    torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def no_shape_checks():
    """What a user has, for tests of the library's own messages."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
