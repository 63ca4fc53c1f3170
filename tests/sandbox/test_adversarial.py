"""What must be contained is contained, and what must pass passes: as root, and as an ordinary user."""

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY
from tests.sandbox.programs import CONTROLS, ESCAPES, FORGERIES, GOT_OUT, KINDS, MISTAKES

from ibidem.sandbox import syscalls

SCRIPT = Path(__file__).with_name("judge_programs.py")
HOSTILE = {**ESCAPES, **FORGERIES, **MISTAKES}
EVERY = {**HOSTILE, **CONTROLS}
SOMEBODY = 12345

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the judge needs Linux namespaces")

Verdicts = dict[str, list[str]]


def run(command: list[str], **more: object) -> Verdicts:
    done = subprocess.run(
        command,
        input=json.dumps(list(EVERY.values())),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        **more,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(EVERY, json.loads(done.stdout), strict=True))


@pytest.fixture(scope="module")
def as_this_user() -> Verdicts:
    return run([sys.executable, str(SCRIPT)], env={**os.environ, "IBIDEM_SECRET": "secret"})


@pytest.fixture(scope="module")
def as_somebody(tmp_path_factory: pytest.TempPathFactory) -> Verdicts:
    """Run as a user of no rights, who sees this Python and this project at places that everybody may enter."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    folder = tmp_path_factory.mktemp("somebody")
    for parent in (folder, *folder.parents):
        if parent == Path(tempfile.gettempdir()):
            break
        parent.chmod(0o755)
    places = {"python": sys.base_prefix, "site": sysconfig.get_paths()["purelib"], "src": str(REPOSITORY / "src")}
    for name in places:
        (folder / name).mkdir()
    (folder / "judge.py").write_text(SCRIPT.read_text())
    python = folder / "python" / "bin" / Path(os.path.realpath(sys.executable)).name

    def become_somebody() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        for name, source in places.items():
            syscalls.mount(source, str(folder / name), None, syscalls.MS_BIND | syscalls.MS_REC)
        os.setgroups([])
        os.setgid(SOMEBODY)
        os.setuid(SOMEBODY)

    path = f"{folder / 'src'}:{folder / 'site'}"
    environment = {"PYTHONPATH": path, "PYTHONHOME": str(folder / "python"), "IBIDEM_SECRET": "secret", "HOME": "/"}
    return run([str(python), str(folder / "judge.py")], env=environment, preexec_fn=become_somebody, cwd="/")


@pytest.fixture(params=["this user", "somebody"])
def verdicts(request: pytest.FixtureRequest) -> Verdicts:
    return request.getfixturevalue(f"as_{request.param.replace(' ', '_')}")


def test_the_suite_is_as_large_as_promised() -> None:
    assert len(HOSTILE) >= 60
    assert len(CONTROLS) >= 10


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_is_contained(name: str, verdicts: Verdicts) -> None:
    kind, detail = verdicts[name]
    assert kind not in GOT_OUT, detail


@pytest.mark.parametrize("name", CONTROLS)
def test_an_honest_program_passes(name: str, verdicts: Verdicts) -> None:
    assert verdicts[name][0] == "passed", verdicts[name]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("spin", "timeout"),
        ("timeout ignored", "timeout"),
        ("spin in a regular expression", "timeout"),
        ("sleep", "idle"),
        ("stop itself", "idle"),
        ("memory bomb", "failed"),
        ("native crash", "crash"),
        ("end", "crash"),
        ("huge answer", "answer"),
        ("always equal", "answer"),
        *((name, kind) for name, (kind,) in KINDS.items()),
    ],
)
def test_the_kind_of_the_error_is_told(name: str, kind: str, verdicts: Verdicts) -> None:
    assert verdicts[name][0] == kind
