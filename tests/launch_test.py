"""The scripts of launch/: what they do on a machine that is not ready."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# Stands in for Python: answers what the scripts ask, and notes each question.
# VERSION and the lines of BROKEN (venv, pip, network) say what it cannot do.
_FAKE_PYTHON = """#!/bin/bash
echo "$*" | head -1 >> "$LOG"
case "$*" in
  *version_info*) echo "${VERSION:-3.11} /base" ;;
  *"import ensurepip"*) [[ "${BROKEN:-}" != venv ]] ;;
  "-m venv"*)
    mkdir -p "${@: -1}/bin"
    rm -rf "${@: -1}/.aeent-installing" "${@: -1}/left-over"
    cp "$0" "${@: -1}/bin/python"
    cp "$(dirname "$0")/aeent" "${@: -1}/bin/aeent" ;;
  *"-m pip"*)
    case "${BROKEN:-}" in
      network) echo "WARNING: NewConnectionError: refused"; exit 1 ;;
      pip) echo "ERROR: no space left on device"; exit 1 ;;
      killed) kill -9 $PPID; sleep 9 ;;
    esac ;;
esac
"""
_FAKE_AEENT = '#!/bin/bash\necho "aeent $*" >> "$LOG"\n'


class Machine:
    """A copy of the scripts, and a stand-in for Python to run them with."""

    def __init__(self, path):
        self.root = path / "a project"
        shutil.copytree(ROOT / "launch", self.root / "launch")
        for name in ("requirements.lock", "pyproject.toml"):
            shutil.copy(ROOT / name, self.root)
        self.bin = path / "some bin"
        self.bin.mkdir()
        self.log = path / "log"
        self.add("python3", _FAKE_PYTHON)
        self.add("aeent", _FAKE_AEENT)
        for tool in (
            "bash",
            "cat",
            "cksum",
            "cp",
            "dirname",
            "grep",
            "head",
            "mkdir",
            "rm",
            "sed",
            "sleep",
            "tail",
            "touch",
        ):
            (self.bin / tool).symlink_to(shutil.which(tool))

    def add(self, name, text):
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def run(
        self,
        script,
        *arguments,
        cwd=None,
        start_new_session=False,
        **variables,
    ):
        """Runs a script; what it asked of Python is then in `asked`."""
        self.log.write_text("")
        done = subprocess.run(
            ["bash", str(self.root / "launch" / script), *arguments],
            cwd=cwd or self.root.parent,
            env={"PATH": str(self.bin), "LOG": str(self.log), **variables},
            stdin=subprocess.DEVNULL,
            # Processes in the background ignore Ctrl-C, and so do theirs.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            capture_output=True,
            text=True,
            # A group of its own, so that a signal to the group stays there.
            start_new_session=start_new_session,
        )
        self.asked = self.log.read_text().splitlines()
        return done

    def asked_for(self, words):
        return [line for line in self.asked if words in line]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def assert_fails_with(done, sentence):
    assert done.returncode == 1
    assert done.stderr.startswith("[aeent] error: ")
    assert done.stderr.count("\n") == 1
    assert sentence in done.stderr


def test_first_start_installs_and_second_does_not(machine):
    done = machine.run("test.sh")
    assert done.returncode == 0, done.stderr
    assert len(machine.asked_for("-m venv")) == 1
    assert len(machine.asked_for("-m pip")) == 2
    assert machine.asked_for(f"install -r {machine.root}/requirements.lock")
    assert machine.asked_for(f"--no-deps -e {machine.root}")
    assert machine.asked_for("-m ruff check")
    workers = "-n logical --maxprocesses=4 --dist loadfile"
    assert machine.asked_for(f"-m pytest {workers} -m not slow")
    again = machine.run("test.sh", "--all", "-k", "x")
    assert "up to date" in again.stdout
    assert not machine.asked_for("-m venv")
    assert not machine.asked_for("-m pip")
    assert machine.asked_for(f"{workers} -m slow or not slow -k x")


def test_accelerators_get_the_jax_that_is_installed(machine):
    script = machine.root / "launch" / "pod.sh"
    script.write_text(
        '. "${BASH_SOURCE[0]%/*}/bootstrap.sh"\nbootstrap_for tpu\n'
    )
    machine.add("python3", _FAKE_PYTHON + '[[ "$*" != *__v* ]] || echo 1.2\n')
    done = machine.run("pod.sh")
    assert done.returncode == 0, done.stderr
    assert len(machine.asked_for("-m pip")) == 3
    assert machine.asked_for("install jax[tpu]==1.2")


def test_quickstart_runs_all_and_shares_the_environment(machine, tmp_path):
    assert machine.run("test.sh").returncode == 0
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    done = machine.run("quickstart.sh", "my runs", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert not machine.asked_for("-m pip")
    assert len(machine.asked_for("aeent train")) == 3
    for name in ("plain", "controlled", "narrow"):
        assert machine.asked_for(f"--workdir={elsewhere}/my runs/{name}")
    assert machine.asked_for(f"--out={elsewhere}/my runs/report.html")
    assert machine.asked[-1].startswith("aeent report")
    assert f"Open {elsewhere}/my runs/report.html" in done.stdout


def test_quickstart_writes_into_the_project_by_default(machine):
    machine.run("quickstart.sh")
    assert machine.asked_for(f"--workdir={machine.root}/runs/quickstart/plain")


def test_quickstart_refuses_what_it_does_not_know(machine):
    assert_fails_with(machine.run("quickstart.sh", "--all"), "option --all")
    assert_fails_with(machine.run("quickstart.sh", "a", "b"), "One folder")


def test_quickstart_stops_where_training_fails(machine):
    machine.add("aeent", '#!/bin/bash\necho "aeent $*" >> "$LOG"; exit 3\n')
    assert machine.run("quickstart.sh").returncode == 3
    assert len(machine.asked_for("aeent train")) == 1
    assert not machine.asked_for("aeent report")


def test_quickstart_ends_on_ctrl_c_though_training_ends_well(machine):
    # As training does: it saves, and its exit status is 0.
    machine.add(
        "aeent",
        '#!/bin/bash\necho "aeent $*" >> "$LOG"\n'
        "trap : INT\nkill -INT 0\nexit 0\n",
    )
    done = machine.run("quickstart.sh", start_new_session=True)
    assert done.returncode == 130
    assert "Stopped" in done.stdout
    assert len(machine.asked_for("aeent train")) == 1


def test_interrupted_installation_begins_anew(machine):
    assert machine.run("test.sh", BROKEN="killed").returncode == -9
    (machine.root / ".venv" / "left-over").touch()
    done = machine.run("test.sh")
    assert done.returncode == 0
    assert len(machine.asked_for("-m venv --clear")) == 1
    assert not (machine.root / ".venv" / "left-over").exists()
    machine.run("test.sh")
    assert not machine.asked_for("-m pip")


def test_changed_lock_is_installed_into_the_same_environment(machine):
    machine.run("test.sh")
    with (machine.root / "requirements.lock").open("a") as lock:
        lock.write("one-more==1.0\n")
    machine.run("test.sh")
    assert len(machine.asked_for("-m pip")) == 2
    assert not machine.asked_for("-m venv")


def test_other_python_makes_the_environment_anew(machine):
    machine.run("test.sh")
    machine.add("newer", _FAKE_PYTHON.replace(":-3.11}", ":-3.13}"))
    for variable in ("AEENT_PYTHON", "PYTHON"):
        machine.run("test.sh")
        done = machine.run("test.sh", **{variable: str(machine.bin / "newer")})
        assert "Python 3.13" in done.stdout
        assert len(machine.asked_for("-m venv --clear")) == 1


def test_moved_project_is_installed_again(machine):
    machine.run("test.sh")
    machine.root = machine.root.rename(machine.root.parent / "moved")
    done = machine.run("test.sh")
    assert done.returncode == 0
    assert machine.asked_for(f"--no-deps -e {machine.root}")


def test_environment_made_by_hand_is_not_cleared(machine):
    machine.run("test.sh")
    (machine.root / ".venv" / ".aeent-installed").unlink()
    machine.run("test.sh")
    assert len(machine.asked_for("-m pip")) == 2
    assert not machine.asked_for("-m venv")


# Stands in for a process of a training: fails, waits or ends by its number.
_FAKE_HOST = """#!/bin/bash
echo "aeent $* $XLA_FLAGS" >> "$LOG"
echo "out $*"
echo "err" >&2
case "$*" in
  *--process_id=1*) exit "${SECOND:-0}" ;;
  *) trap 'echo asked; exit 0' TERM
     for ((i = 0; i < ${WAIT:-0}; i++)); do sleep 0.1; done ;;
esac
"""


@pytest.fixture
def hosts(machine):
    machine.add("host", _FAKE_HOST)

    def run(*arguments, **variables):
        return machine.run(
            "local_hosts.sh", *arguments, **({"AEENT": "host"} | variables)
        )

    return run


def test_local_hosts_start_every_process(machine, hosts):
    done = hosts("--workdir=a b", PROCESSES="3", DEVICES="2", PORT="7000")
    assert done.returncode == 0, done.stderr
    assert sorted(machine.asked) == [
        f"aeent train --coordinator=127.0.0.1:7000 --num_processes=3"
        f" --process_id={i} --workdir=a b "
        " --xla_force_host_platform_device_count=2"
        for i in range(3)
    ]
    for i in range(3):
        assert f"[{i}] out train --coordinator=127.0.0.1:7000" in done.stdout
        assert f"[{i}] err\n" in done.stderr


def test_local_hosts_dry_run_starts_nothing(machine, hosts):
    done = hosts("--dry-run", "--workdir=a b", PORT="7000")
    assert (done.returncode, done.stderr, machine.asked) == (0, "", [])
    first, second = done.stdout.splitlines()
    assert first == (
        "JAX_PLATFORMS=cpu"
        " XLA_FLAGS=\\ --xla_force_host_platform_device_count=1"
        " host train --coordinator=127.0.0.1:7000 --num_processes=2"
        " --process_id=0 --workdir=a\\ b"
    )
    assert second == first.replace("--process_id=0", "--process_id=1")


def test_local_hosts_show_their_header(machine, hosts):
    done = hosts("--help")
    assert (done.returncode, done.stderr, machine.asked) == (0, "", [])
    assert done.stdout.startswith("Trains on one machine as on several hosts")
    assert "set -euo" not in done.stdout


def test_local_hosts_end_as_the_first_that_failed(machine, hosts):
    done = hosts(SECOND="3", WAIT="5")
    assert done.returncode == 3
    assert "Process 1 ended with status 3; waiting for" in done.stderr


def test_local_hosts_pass_a_signal_on(machine, hosts):
    begun = time.monotonic()
    machine.add(
        "stopping",
        '#!/bin/bash\n(sleep 1; kill -TERM $PPID) &\nexec host "$@"\n',
    )
    done = hosts(AEENT="stopping", PROCESSES="1", WAIT="200")
    assert done.returncode == 0, done.stderr
    assert "[0] asked\n" in done.stdout
    assert time.monotonic() - begun < 15


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"PROCESSES": "0"}, "PROCESSES is '0', but must be a whole number"),
        ({"PROCESSES": "two"}, "PROCESSES is 'two', but must be a whole"),
        ({"DEVICES": "99"}, "DEVICES is '99', but must be a whole number from"),
        ({"PORT": "70000"}, "PORT is '70000', but must be a whole number from"),
        ({"AEENT": "/no/aeent"}, "AEENT names /no/aeent, which is no program;"),
    ],
)
def test_local_hosts_refuse_what_cannot_be(machine, hosts, variables, sentence):
    assert_fails_with(hosts(**variables), sentence)
    assert not machine.asked


@pytest.mark.parametrize("version", ["2.7", "3.8", "3.10"])
def test_old_python_is_one_sentence(machine, version):
    assert_fails_with(
        machine.run("test.sh", VERSION=version),
        f"3.11 or newer is needed, found python3 of version {version}; install",
    )
    assert_fails_with(
        machine.run("test.sh", VERSION=version, PYTHON="python3"),
        f"needed, and python3 is Python {version}; set AEENT_PYTHON",
    )


def test_newer_python_is_found_beside_an_old_one(machine):
    machine.add("python3", _FAKE_PYTHON.replace(":-3.11}", ":-3.9}"))
    machine.add("python3.12", _FAKE_PYTHON.replace(":-3.11}", ":-3.12}"))
    assert "with Python 3.12" in machine.run("test.sh").stdout


def test_missing_python_is_one_sentence(machine):
    (machine.bin / "python3").unlink()
    assert_fails_with(
        machine.run("quickstart.sh"), "3.11 or newer is needed, found none;"
    )
    assert_fails_with(
        machine.run("quickstart.sh", AEENT_PYTHON="/no/python"),
        "The Python that was named, /no/python, cannot be run;",
    )


def test_missing_venv_module_is_one_sentence(machine):
    assert_fails_with(
        machine.run("test.sh", BROKEN="venv"),
        "python3 lacks the venv module; on Debian or Ubuntu"
        " 'apt install python3.11-venv' brings it, then start again.",
    )


def test_unreachable_index_is_one_sentence(machine):
    assert_fails_with(
        machine.run("test.sh", BROKEN="network"),
        "The package index cannot be reached, or lacks a package; check",
    )
    assert machine.run("test.sh").returncode == 0


def test_other_failure_of_pip_shows_what_pip_said(machine):
    done = machine.run("test.sh", BROKEN="pip")
    assert done.returncode == 1
    assert "ERROR: no space left on device" in done.stderr
    assert "[aeent] error: The installation failed" in done.stderr


def test_real_pip_without_an_index_is_recognised(tmp_path):
    shutil.copytree(ROOT / "launch", tmp_path / "launch")
    (tmp_path / "requirements.lock").write_text("absl-py==2.5.1\n")
    (tmp_path / "pyproject.toml").write_text("")
    done = subprocess.run(
        ["bash", str(tmp_path / "launch" / "test.sh")],
        env={
            "PATH": os.environ["PATH"],
            "AEENT_PYTHON": sys.executable,
            "PIP_CONFIG_FILE": os.devnull,
            # A port on which nothing listens.
            "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
            "PIP_RETRIES": "0",
            "PIP_NO_CACHE_DIR": "1",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert_fails_with(done, "The package index cannot be reached, or")


def test_shellcheck_has_nothing_to_say():
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    launch = ROOT / "launch"
    scripts = [
        *launch.glob("*.sh"),
        launch / "slurm.sbatch",
        ROOT / ".ci" / "run",
    ]
    done = subprocess.run(
        [shellcheck, "-x", *map(str, scripts)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout == ""
