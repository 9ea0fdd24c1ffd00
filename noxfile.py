"""What CI runs, and nothing else by default: `nox -l` lists the sessions.

`nox -s "tests-3.13(backend='trio')" -- -k cancel` runs one of them; what follows `--` goes to
pytest.
"""

import os
import re
import sys
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "uv|virtualenv"
# An interpreter that isn't installed is skipped with a word: neither fetched nor an error, even
# where CI is set, so that the same command passes on a machine with one Python.
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False

# The tests start hundreds of interpreters: none shall compile again what another has compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

PYPROJECT = nox.project.load_toml("pyproject.toml")
# Builds without the GIL have no sessions of their own here; the workflow names those it tries.
PYTHONS = [each for each in nox.project.python_versions(PYPROJECT) if not each.endswith("t")]
BACKENDS = ["asyncio", "uvloop", "trio"]


def group(name: str) -> tuple[str, ...]:
    return nox.project.dependency_groups(PYPROJECT, name)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting, and that imports go down the layers only."""
    session.install("-e", ".", *group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports", "--no-cache")


@nox.session
def typing(session: nox.Session) -> None:
    """Check the library's types with mypy, and what four checkers make of the calls to it."""
    session.install("-e", ".", *group("typing"))
    session.run("mypy")
    session.run("pyright", "--ignoreexternal", "--verifytypes", "anyslots")
    session.run("python", "tests/typing/check.py")


# As many test processes as there are processors; a cluster is started in one of them.
PYTEST = ("-m", "pytest", "-n", "auto", "--dist", "loadgroup")
# Without others' servers, clusters and executors, which take a while to start, and without what
# takes long and reaches no line that others don't.
OURS = ("-m", "not engines and not unmeasured")
# And without programs and servers as they are used.
OWN = (*OURS, "--ignore=tests/integration")
# With few random programs: what's looked for there has tests of its own.
FEW = {"HYPOTHESIS_PROFILE": "few"}


tried_before: list[str] = []


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Run the tests with the oldest Python and dependencies that pyproject.toml allows."""
    project = PYPROJECT["project"]
    declared = [*project["dependencies"]]
    for extra in ("trio", "progress", "opentelemetry", "prometheus", "httpx"):
        declared += project["optional-dependencies"][extra]
    pinned = [requirement.replace(">=", "==") for requirement in declared]
    session.install(".", *group("test"), *pinned)
    backends = ("--backend=asyncio", "--backend=trio")
    session.run("python", "-X", "dev", *PYTEST, *OWN, *backends, *session.posargs, env=FEW)
    tried_before.append(session.python)


all_of_it: dict[str, str] = {}


# Newest first: on each backend the first Python that is installed runs everything, the others our
# own tests; what those leave out looks at other people's code, or at ever more random programs. The
# oldest runs them with the oldest dependencies, or else here.
@nox.session(python=PYTHONS[::-1])
@nox.parametrize("backend", BACKENDS)
def tests(session: nox.Session, backend: str) -> None:
    """Run the tests against the built package on one backend."""
    if backend == "uvloop" and sys.platform == "win32":
        session.skip("there's no uvloop for Windows")
    whole = all_of_it.setdefault(backend, session.python) == session.python
    if backend == "uvloop" and not whole:
        session.skip("uvloop is tried on the newest Python")
    if session.python in tried_before and not whole:
        session.skip("tried with the oldest dependencies")
    session.install(".", *group("test"))
    chosen = (*(() if whole else OWN), f"--backend={backend}", *session.posargs)
    session.run("python", "-X", "dev", *PYTEST, *chosen, env={} if whole else FEW)


@nox.session(python=[python for python in PYTHONS[::-1] if python not in ("3.11", "3.12", "3.13")])
def inherited(session: nox.Session) -> None:
    """Run the tests of threads where these inherit contexts, as builds without a GIL have it."""
    session.install(".", *group("test"))
    flags = ("-X", "dev", "-X", "thread_inherit_context=1", "-X", "context_aware_warnings=1")
    words = "thread or blocking or pool or context or submit"
    session.run("python", *flags, *PYTEST, *OWN, "-k", words, *session.posargs, env=FEW)


measured: list[str] = []


# Newest first, and only the first that is installed: one more run of the suite is enough. It's a
# run of its own because tracing slows the code and keeps objects alive, which `tests` looks at; so
# it leaves out what's there for other reasons than to reach a line.
@nox.session(python=PYTHONS[::-1])
def coverage(session: nox.Session) -> None:
    """Run the tests on the newest Python that is installed; nearly all lines must run."""
    if measured:
        session.skip(f"measured on Python {measured[0]}")
    measured.append(session.python)
    session.install("-e", ".", *group("test"))
    session.run("coverage", "erase")
    # What's trio's own is in few modules.
    for chosen in (("--backend=asyncio",), ("--backend=trio", "tests/runtime", "tests/programs")):
        session.run("coverage", "run", *PYTEST, *OURS, *chosen, env=FEW)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


built: list[str] = []


# Newest first, and only the first that is installed: Sphinx supports few Pythons.
@nox.session(python=PYTHONS[::-1])
def docs(session: nox.Session) -> None:
    """Build the documentation, with warnings as errors, into docs/_build."""
    if built:
        session.skip(f"built with Python {built[0]}")
    built.append(session.python)
    session.install("-e", ".", *group("docs"))
    strict = ("--fail-on-warning", "--keep-going", "--nitpicky", "--fresh-env", "--quiet")
    session.run("sphinx-build", *strict, "docs", "docs/_build", *session.posargs)


# A link or picture with no URL; and a picture whose URL is that of the page around it.
DEAD_LINK = re.compile(r'(?:\]\(|^\[[^]]+\]: |\b(?:href|src(?:set)?)=")(?!https://)[^)"\s]*', re.M)
DEAD_PICTURE = re.compile(r'(?:!\[[^]]*\]\(|\bsrc(?:set)?=")https://github\.com/[^)"]*')


@nox.session
def package(session: nox.Session) -> None:
    """Build the sdist and the wheel, into dist, and check them and what PyPI will show."""
    session.install(*PYPROJECT["build-system"]["requires"], *group("package"))
    dist = Path("dist")
    for old in [*dist.glob("*.tar.gz"), *dist.glob("*.whl")]:
        old.unlink()
    session.run("hatchling", "build", "-d", str(dist), silent=True)
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    session.run("validate-pyproject", "pyproject.toml")
    session.run("twine", "check", "--strict", str(sdist), str(wheel))
    session.run("check-wheel-contents", str(wheel))
    session.run("pyroma", "--min", "10", str(sdist))
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        page = archive.read(metadata).decode()
    prose = re.sub(r"^ *```.*?^ *```|`[^`\n]*`", "", page, flags=re.M | re.S)
    if dead := DEAD_LINK.findall(prose) + DEAD_PICTURE.findall(prose):
        session.error(f"links that don't work on PyPI; pyproject.toml rewrites some: {dead}")


# Sessions that are asked for go below, each with `default=False`.


@nox.session(python=PYTHONS[-1], default=False)
def latest(session: nox.Session) -> None:
    """Run the tests with what's next: pre-releases of anyio, trio, uvloop and pytest."""
    session.install("--pre", ".", *group("test"))
    session.run("python", "-X", "dev", *PYTEST, *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure anyslots beside what people use instead; `-- --help` says what can be chosen."""
    session.install(".", *group("bench"))
    session.run("python", "benchmarks/compare.py", *session.posargs)


@nox.session(default=False)
def peers(session: nox.Session) -> None:
    """See that other libraries do what the documentation says of them."""
    session.install(".", *group("test"))
    command = ("python", "-m", "pytest", "-p", "conftest", "benchmarks/peers", *session.posargs)
    session.run(*command, env={"PYTHONPATH": "tests"})


@nox.session(default=False)
def soak(session: nox.Session) -> None:
    """Run the property tests with ever new random programs for an hour; `-- --minutes 5`."""
    session.install(".", *group("test"))
    session.run("python", "tests/soak.py", *session.posargs)


@nox.session(default=False)
def mutants(session: nox.Session) -> None:
    """Plant known bugs, one at a time, and see that the tests notice; `-- --random 300`, others."""
    session.install(".", *group("test"))
    session.run("python", "tests/mutants.py", *session.posargs)
