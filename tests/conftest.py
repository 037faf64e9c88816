"""Eight host devices for every test; set before JAX makes its backend."""

import gc
import os
import pathlib
import tempfile

import pytest

# Compiling is most of the time of the tests, and their programs are tiny. What
# the environment says stands above this. The emitters of fusions take 3.4 s of
# CPU time over the gradient of the tiny network, and those before them 0.9 s.
_QUICK = (
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
)
_FLAGS = (
    "--xla_force_host_platform_device_count=8",
    # A slow machine may take long over one collective; never abort for it.
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
)
os.environ["XLA_FLAGS"] = " ".join(
    (*_QUICK, os.environ.get("XLA_FLAGS", ""), *_FLAGS)
)
os.environ["JAX_PLATFORMS"] = "cpu"
# Fewer threads than devices can leave a collective waiting for its peers.
os.environ.setdefault("NPROC", "32")


@pytest.fixture(scope="session", autouse=True)
def _keep_compiled_programs():
    """Keeps on disk, until the end, what modules drop and compile again.

    Each process of pytest has a folder of its own: JAX may read an entry while
    another process writes it. JAX_COMPILATION_CACHE_DIR stands above this.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        yield
        return
    import training_support

    with tempfile.TemporaryDirectory(prefix="aeent-xla-") as folder:
        yield from training_support.use_compilation_cache(pathlib.Path(folder))


@pytest.fixture(scope="module", autouse=True)
def _drop_compiled_programs():
    """Drops each module's programs: a process has 65530 memory maps at most.

    A compiled program takes several, and past the limit the next one ends the
    process with a segmentation fault.
    """
    yield
    import jax

    jax.clear_caches()
    gc.collect()


@pytest.fixture
def nothing_is_made_here(tmp_path_factory, monkeypatch):
    """A working folder, where a gs:// taken for a path on disk would show."""
    here = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(here)
    yield
    assert list(here.iterdir()) == []
