"""The launchers of clusters, with stand-ins for gcloud and Slurm."""

import os
import pathlib
import re
import shlex
import shutil
import signal
import string
import subprocess
import time

import pytest
import yaml

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"

# Notes each call as one line of quoted words. Its answer and exit
# status are the next line of a file named after the kind of call; its last line
# is for good. "-" stands for a failure.
_FAKE = """#!/bin/bash
printf '%q ' "$(basename "$0")" "$@" >>"$LOG"
echo >>"$LOG"
case "$*" in
  *"queued-resources describe"*) kind=request ;;
  *"tpu-vm describe"*) kind=slice ;;
  *"tpu_worker.sh setup"*) kind=setup ;;
  *"tpu_worker.sh run"*) kind=run ;;
  *) kind="$(basename "$0")" ;;
esac
[ -f "$ANSWERS/$kind" ] || exit 0
mapfile -t lines <"$ANSWERS/$kind"
[ "${#lines[@]}" = 1 ] || printf '%s\\n' "${lines[@]:1}" >"$ANSWERS/$kind"
case "${lines[0]}" in
  -) exit 1 ;;
  [0-9]*) exit "${lines[0]}" ;;
esac
echo "${lines[0]}"
"""
_VARIABLES = {
    "TPU_NAME": "my pod",
    "TPU_ZONE": "us-west4-a",
    "TPU_TYPE": "v5litepod-256",
    "TPU_VERSION": "v2-alpha-tpuv5-lite",
    "TPU_SHARE": "10.0.0.2:/aeent",
    "TPU_POLL_SECONDS": "0",
}
_WORKDIR = "--workdir=/mnt/aeent/runs/mine"

_PLACE = ("--zone=us-west4-a",)
_DESCRIBE = (
    *("queued-resources", "describe", "my pod", *_PLACE),
    "--format=value(state.state)",
)
_CREATE = (
    *("queued-resources", "create", "my pod", *_PLACE, "--node-id=my pod"),
    "--accelerator-type=v5litepod-256",
    "--runtime-version=v2-alpha-tpuv5-lite",
    *("--spot", "--async"),
)
_DELETE = (
    *("queued-resources", "delete", "my pod", *_PLACE),
    *("--force", "--quiet"),
)
_SLICE = ("tpu-vm", "describe", "my pod", *_PLACE, "--format=value(state)")
_COPY = (
    *("tpu-vm", "scp", "aeent_jax.tar.gz", "my pod:aeent_jax.tar.gz"),
    *(*_PLACE, "--worker=all"),
)


def on_workers(command):
    return (
        *("tpu-vm", "ssh", "my pod", *_PLACE, "--worker=all"),
        f"--command={command}",
    )


_SETUP = on_workers(
    "mkdir -p aeent_jax && tar -xzf aeent_jax.tar.gz -C aeent_jax && "
    "bash aeent_jax/launch/tpu_worker.sh setup 10.0.0.2:/aeent /mnt/aeent"
)


_TOOLS = (
    *("bash", "basename", "dirname", "flock", "gzip", "hostname", "mkdir"),
    *("mktemp", "pkill", "rm", "sed", "seq", "sleep", "tar"),
)


class Cluster:
    """A copy of the launchers, and stand-ins for what they start."""

    def __init__(self, path):
        self.root = path / "a project"
        shutil.copytree(LAUNCH, self.root / "launch")
        self.bin, self._answers = path / "bin", path / "answers"
        self.bin.mkdir()
        self._answers.mkdir()
        self.log = path / "log"
        self.log.write_text("")
        # Nothing else can be found: no gcloud or Slurm of this machine.
        for tool in _TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        for name in ("gcloud", "srun", "scancel", "scontrol"):
            self.add(self.bin / name)

    def add(self, path, text=_FAKE):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def answer(self, **answers):
        """Lines that calls are answered with, by kind."""
        for kind, lines in answers.items():
            text = "".join(f"{line}\n" for line in lines)
            (self._answers / kind).write_text(text)

    def start(self, script, *arguments, **variables):
        variables = {k: v for k, v in variables.items() if v is not None}
        return subprocess.Popen(
            ["bash", str(self.root / "launch" / script), *arguments],
            env={
                "PATH": str(self.bin),
                "HOME": str(self.root),
                "LOG": str(self.log),
                "ANSWERS": str(self._answers),
                **variables,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A group of its own, which a test can end.
            start_new_session=True,
        )

    def run(self, script, *arguments, **variables):
        process = self.start(script, *arguments, **variables)
        # One that waits for what never comes is a failure.
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess((), process.returncode, out, err)

    def pod(self, *arguments, **changes):
        return self.run("tpu_pod.sh", *arguments, **(_VARIABLES | changes))

    @property
    def calls(self):
        """The calls so far, as words."""
        lines = self.log.read_text().splitlines()
        return [tuple(shlex.split(line)) for line in lines]

    def tpu_calls(self):
        """The calls of gcloud, with the archive's name as in a dry run."""
        calls = []
        for gcloud, compute, tpus, *words in self.calls:
            assert (gcloud, compute, tpus) == ("gcloud", "compute", "tpus")
            if "scp" in words and words[2].startswith("/tmp"):
                words[2] = "aeent_jax.tar.gz"
            calls.append(tuple(words))
        return calls


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


def assert_fails_with(done, sentence):
    assert done.returncode == 1, done.stdout
    assert done.stderr.startswith("[aeent] error: ")
    assert done.stderr.count("\n") == 1
    assert sentence in done.stderr


_DRY_RUNS = {
    ("create",): [_DESCRIBE, _CREATE, _SLICE],
    ("setup",): [_COPY, _SETUP],
    ("run", _WORKDIR, "--config=a b.py"): [
        *(_DESCRIBE, _CREATE, _SLICE, _COPY, _SETUP),
        on_workers(
            "bash aeent_jax/launch/tpu_worker.sh run"
            f" {_WORKDIR} --config=a\\ b.py"
        ),
    ],
    ("status",): [_DESCRIBE[:-1], _SLICE],
    ("stop",): [on_workers("bash aeent_jax/launch/tpu_worker.sh stop")],
    ("fetch", "runs/mine", "to here"): [
        (
            *("tpu-vm", "scp", "my pod:/mnt/aeent/runs/mine", "to here"),
            *(*_PLACE, "--worker=0", "--recurse"),
        )
    ],
    ("delete", "my pod"): [_DELETE],
}


@pytest.mark.parametrize("arguments", _DRY_RUNS, ids=lambda words: words[0])
def test_dry_run_prints_every_command_and_runs_none(cluster, arguments):
    name, *rest = arguments
    done = cluster.pod(name, "--dry-run", *rest)
    assert done.returncode == 0, done.stderr
    printed = [
        tuple(shlex.split(line))
        for line in done.stdout.splitlines()
        if not line.startswith("[aeent]")
    ]
    prefix = ("gcloud", "compute", "tpus")
    assert printed == [prefix + call for call in _DRY_RUNS[arguments]]
    assert cluster.calls == []


def test_run_creates_waits_installs_and_trains(cluster):
    states = ["-", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    cluster.answer(request=states, slice=["CREATING", "READY"])
    done = cluster.pod("run", _WORKDIR, "--config=a b.py")
    assert done.returncode == 0, done.stderr
    *setup, train = _DRY_RUNS["run", _WORKDIR, "--config=a b.py"][3:]
    assert cluster.tpu_calls() == [
        *(_DESCRIBE, _CREATE, _DESCRIBE, _DESCRIBE, _DESCRIBE),
        *(_SLICE, _DESCRIBE, _SLICE, *setup, train),
    ]
    assert "fetch runs/mine DIR" in done.stdout
    assert "delete my pod" in done.stdout
    assert done.stdout.count("The request is ACTIVE.") == 1


@pytest.mark.parametrize(
    ("request_state", "slice_state"),
    [("SUSPENDED", "-"), ("ACTIVE", "PREEMPTED")],
)
def test_preempted_slice_is_asked_for_again_and_the_run_repeated(
    cluster, request_state, slice_state
):
    # There at first; after the run has failed, gone; then there again.
    again = [request_state] * 2 + ["-", "ACTIVE"]
    gone = [slice_state] * 2 if request_state == "ACTIVE" else []
    cluster.answer(
        request=["ACTIVE", *again],
        slice=["READY", *gone, "READY"],
        run=["75", "0"],
    )
    done = cluster.pod("run", _WORKDIR)
    assert done.returncode == 0, done.stderr
    calls = cluster.tpu_calls()
    train = on_workers(f"bash aeent_jax/launch/tpu_worker.sh run {_WORKDIR}")
    changing = (_CREATE, _DELETE, _COPY, _SETUP, train)
    assert [call for call in calls if call in changing] == [
        *(_COPY, _SETUP, train),
        *(_DELETE, _CREATE, _COPY, _SETUP, train),
    ]
    assert "The slice was preempted" in done.stdout


def test_slice_that_is_lost_while_it_is_set_up_is_asked_for_again(cluster):
    cluster.answer(
        request=["ACTIVE", "SUSPENDED", "SUSPENDED", "-", "ACTIVE"],
        slice=["READY"],
        setup=["255", "0"],
    )
    done = cluster.pod("run", _WORKDIR)
    assert done.returncode == 0, done.stderr
    assert cluster.tpu_calls().count(_CREATE) == 1
    assert cluster.tpu_calls().count(_SETUP) == 2


def test_run_that_fails_on_its_own_is_not_repeated(cluster):
    cluster.answer(request=["ACTIVE"], slice=["READY"], run=["1"])
    done = cluster.pod("run", _WORKDIR)
    assert_fails_with(done, "failed on a slice that is still there")
    assert _DELETE not in cluster.tpu_calls()
    assert cluster.tpu_calls().count(_SETUP) == 1


def test_failed_request_is_told_and_kept(cluster):
    cluster.answer(request=["FAILED"])
    assert_fails_with(cluster.pod("create"), "The request my pod failed;")
    assert cluster.tpu_calls() == [_DESCRIBE]


def test_refused_request_ends_the_script(cluster):
    cluster.answer(request=["-"], gcloud=["-"])
    assert cluster.pod("create").returncode == 1
    assert cluster.tpu_calls() == [_DESCRIBE, _CREATE]


def test_project_and_tier_are_the_users(cluster):
    cluster.answer(request=["-", "ACTIVE"], slice=["READY"])
    cluster.pod("create", TPU_PROJECT="mine", TPU_SPOT="0")
    create = cluster.tpu_calls()[1]
    assert "--project=mine" in create
    assert "--spot" not in create


@pytest.mark.parametrize("name", list(_VARIABLES)[:5])
def test_missing_variable_is_one_sentence(cluster, name):
    done = cluster.pod("run", _WORKDIR, **{name: None})
    assert_fails_with(done, f"{name} is not set, but is needed: the ")
    assert f"for example: export {name}=" in done.stderr
    assert cluster.calls == []


@pytest.mark.parametrize(
    ("words", "changes", "sentence"),
    [
        (["fly"], {}, "Unknown command fly;"),
        (["run"], {}, "add --workdir=/mnt/aeent/runs/mine"),
        (["run", "--workdir=runs/mine"], {}, "must be on the share"),
        (["create"], {"TPU_SPOT": "yes"}, "TPU_SPOT is yes, but must be 1"),
        (["fetch", "runs/mine"], {}, "fetch needs a path on the share"),
        (["delete"], {}, "found '', but TPU_NAME is my pod;"),
        (["delete", "other"], {}, "found 'other', but TPU_NAME is my pod;"),
    ],
)
def test_wrong_call_is_one_sentence(cluster, words, changes, sentence):
    assert_fails_with(cluster.pod(*words, **changes), sentence)
    assert cluster.calls == []


def test_workdir_can_be_in_a_bucket(cluster):
    workdir = "--workdir=gs://bucket/runs/mine"
    done = cluster.pod("run", "--dry-run", workdir)
    assert done.returncode == 0, done.stderr
    assert f"run {workdir}" in done.stdout.replace("\\", "")


def test_missing_gcloud_is_one_sentence(cluster):
    (cluster.bin / "gcloud").unlink()
    assert_fails_with(cluster.pod("create"), "gcloud is not installed;")


@pytest.mark.parametrize("script", ["tpu_pod.sh", "slurm.sbatch"])
def test_help_is_the_header(cluster, script):
    done = cluster.run(script, "--help")
    assert done.returncode == 0
    text = done.stdout
    assert text.startswith("Trains on ")
    assert "--dry-run" in text
    assert "#" not in text
    header = (LAUNCH / script).read_text().split("\n\n")[0]
    for variable in re.findall(r"^#   (TPU_\w+)", header, re.MULTILINE):
        assert variable in text


def test_worker_trains_once_at_a_time(cluster):
    aeent = cluster.root / ".venv" / "bin" / "aeent"
    cluster.add(aeent, '#!/bin/bash\nprintf "%q " "$@"; echo; sleep "$REST"\n')
    first = cluster.start(
        "tpu_worker.sh", "run", _WORKDIR, "--config=a b.py", REST="60"
    )
    assert shlex.split(first.stdout.readline()) == [
        *("train", "--distributed", "--interrupted_status=75"),
        *(_WORKDIR, "--config=a b.py"),
    ]
    second = cluster.run("tpu_worker.sh", "run", _WORKDIR, REST="0")
    assert_fails_with(second, " is training already; wait for it, or end it")
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    third = cluster.run("tpu_worker.sh", "run", _WORKDIR, REST="0")
    assert third.returncode == 0, third.stderr


def test_share_that_cannot_be_mounted_is_one_sentence(cluster):
    cluster.add(cluster.bin / "mountpoint", "#!/bin/bash\nexit 1\n")
    cluster.add(cluster.bin / "mount.nfs", "#!/bin/bash\n")
    cluster.add(cluster.bin / "sudo", "#!/bin/bash\n[ $1 = mkdir ]\n")
    done = cluster.run("tpu_worker.sh", "setup", "10.0.0.2:/aeent", "/mnt/x")
    assert_fails_with(done, "The share 10.0.0.2:/aeent cannot be mounted;")


# A step that saves when it is asked to, as training does.
_STEP = """#!/bin/bash
trap 'exit 75' TERM
echo "step $$" >>"$LOG"
for _ in {1..600}; do sleep 0.1; done
"""


def make_job(cluster):
    cluster.add(cluster.root / ".venv" / "bin" / "aeent")
    return {"SLURM_SUBMIT_DIR": str(cluster.root), "SLURM_JOB_ID": "7"}


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_slurm_job_saves_and_goes_back_into_the_queue(cluster, number):
    variables = make_job(cluster)
    # Stands for Slurm, which signals the step.
    cluster.add(cluster.bin / "srun", _STEP)
    cluster.add(
        cluster.bin / "scancel",
        "#!/bin/bash\nread -r _ step <$LOG\n"
        '[ "$*" = "--signal=TERM 7" ] && kill -TERM "$step"\n',
    )
    job = cluster.start("slurm.sbatch", _WORKDIR, **variables)
    wait_for(lambda: cluster.calls)
    job.send_signal(number)
    out, err = job.communicate(timeout=60)
    assert job.returncode == 75, err
    assert "job 7 goes back into the queue" in out
    assert cluster.calls[-1] == ("scontrol", "requeue", "7")


@pytest.mark.parametrize("status", [0, 3])
def test_slurm_job_that_ends_is_not_repeated(cluster, status):
    variables = make_job(cluster)
    cluster.answer(srun=[str(status)])
    done = cluster.run("slurm.sbatch", _WORKDIR, **variables)
    assert done.returncode == status, done.stderr
    assert [call[0] for call in cluster.calls] == ["srun"]


@pytest.mark.parametrize(
    ("variables", "gpus"),
    [
        ({"SLURM_GPUS_ON_NODE": "4"}, "0,1,2,3"),
        ({"SLURM_GPUS_ON_NODE": "1", "SLURM_NTASKS_PER_NODE": "1"}, "0"),
        ({"SLURM_GPUS_ON_NODE": "4", "SLURM_NTASKS_PER_NODE": "4"}, None),
    ],
)
def test_slurm_process_has_all_gpus_or_one(cluster, variables, gpus):
    done = cluster.run(
        "slurm.sbatch", "--dry-run", _WORKDIR, "--config=a b", **variables
    )
    assert done.returncode == 0, done.stderr
    *export, srun = map(shlex.split, done.stdout.splitlines())
    wanted = [["export", f"JAX_LOCAL_DEVICE_IDS={gpus}"]] if gpus else []
    assert export == wanted
    assert srun[:2] == ["srun", "--kill-on-bad-exit=0"]
    assert srun[3:] == [
        *("train", "--distributed", "--interrupted_status=75"),
        *(_WORKDIR, "--config=a b"),
    ]
    assert cluster.calls == []


@pytest.mark.parametrize(
    ("words", "job", "sentence"),
    [
        ([], "7", "A workdir that all nodes see is needed;"),
        ([_WORKDIR], None, "This is a job for Slurm; give 'sbatch launch/"),
        ([_WORKDIR], "7", "/.venv/bin/aeent is missing; submit from the"),
    ],
)
def test_wrong_slurm_job_is_one_sentence(
    cluster, words, job, sentence, tmp_path
):
    # Where nothing is installed, though it may be here.
    done = cluster.run(
        "slurm.sbatch",
        *words,
        SLURM_JOB_ID=job,
        SLURM_SUBMIT_DIR=str(tmp_path),
    )
    assert_fails_with(done, sentence)


def test_slurm_is_asked_for_what_the_header_promises():
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    first = next(
        i for i, line in enumerate(lines) if line == "set -euo pipefail"
    )
    # sbatch reads no options behind the first command.
    options = {line for line in lines if line.startswith("#SBATCH")}
    assert options == set(lines[:first]) & options
    assert {"#SBATCH --requeue", "#SBATCH --signal=B:USR1@300"} <= options


_JOBSET = {
    "NAME": "aeent",
    "IMAGE": "registry/aeent:1",
    "ACCELERATOR": "tpu-v5-lite-podslice",
    "TOPOLOGY": "16x16",
    "HOSTS": "64",
    "CHIPS": "4",
    "CLAIM": "share",
    "CONFIG": "configs/default.py",
    "WORKDIR": "/share/runs/mine",
    "DATA_ROOT": "",
}


def test_jobset_asks_for_one_process_on_each_host_of_a_slice():
    text = (LAUNCH / "gke_jobset.yaml").read_text()
    # As envsubst does it; a placeholder without a value is an error.
    jobset = yaml.safe_load(string.Template(text).substitute(_JOBSET))
    assert jobset["kind"] == "JobSet"
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert jobset["metadata"]["name"] == "aeent"
    (slice_,) = jobset["spec"]["replicatedJobs"]
    job = slice_["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 64
    assert job["backoffLimit"] == 0
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "16x16",
    }
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert all(isinstance(word, str) for word in container["args"])
    assert "--workdir=/share/runs/mine" in container["args"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "share"


def test_jobset_documents_every_placeholder():
    text = (LAUNCH / "gke_jobset.yaml").read_text()
    header = text.split("apiVersion:")[0]
    used = set(re.findall(r"\$\{(\w+)\}", text.removeprefix(header)))
    documented = re.findall(r"^#   ([A-Z_]+)  +\S", header, re.MULTILINE)
    assert set(documented) == used == set(_JOBSET)
