"""Do the tests bite? Small errors, one at a time, in the code whose silent error forges a result.

The errors are those of mutmut, and some of the mask's and the model's own (:data:`SWAPS`).
mutmut's runner leaves out what carries a decorator and what stands outside functions, here the
constructors and the protocol; so this one makes each error in a fork of a process that has torch
ready, and runs the tests that reach its line, the quickest first. What survives is an error that no
test sees, unless ``tests/mutants.txt`` says why it is none.

Run by ``make mutants``. Files and their tests are in ``pyproject.toml`` under ``[tool.mutants]``.
"""

import argparse
import contextlib
import gc
import importlib
import importlib.machinery
import importlib.util
import json
import math
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
KNOWN = ROOT / "tests" / "mutants.txt"
SWAPS = {
    **{"amodal": "visible", "visible": "amodal", "occlusion": "visible"},
    **{"any": "all", "all": "any", "min": "max", "max": "min", "minimum": "maximum"},
    **{"maximum": "minimum", "floor": "ceil", "ceil": "floor", "argmax": "argmin", "sum": "mean"},
    **{"mean": "sum", "ones": "zeros", "zeros": "ones", "left": "right", "right": "left"},
}
PATIENCE = 120  # seconds that the tests of one mutant may take
MEMORY = 8 * 2**30


class Mutant(NamedTuple):
    file: str
    old: str  # the lines that are changed, without indentation
    new: str
    lines: range  # of the statement, up to the change
    code: str


class Known(NamedTuple):
    file: str
    why: str
    changes: list[tuple[str, str]]


def known(text: str) -> list[Known]:
    """Entries of ``mutants.txt``: a file, why, and lines before (``-``) and after (``+``)."""
    entries = []
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        if not lines:
            continue
        marked = [k for k, line in enumerate(lines) if line[:2] in ("- ", "+ ")] + [len(lines)]
        why, changes = " ".join(lines[1 : marked[0]]), []
        for line in lines[marked[0] :]:
            sign, content = line[0], line[2:]
            if sign == "-" and (not changes or changes[-1][1]):
                changes.append(([], []))
            changes[-1]["-+".index(sign)].append(content)
        told = [("\n".join(old), "\n".join(new)) for old, new in changes]
        entries.append(Known(lines[0], why, told))
    return entries


def mutants(file: str) -> Iterator[Mutant]:
    """All of a file, each once."""
    import libcst as cst
    from libcst.metadata import MetadataWrapper, PositionProvider
    from mutmut.mutation.mutators import (
        mutation_operators,
        operator_arg_removal,
        operator_assignment,
        operator_dict_arguments,
    )

    # What crashes is not silent: no None for a value, and of arguments only named ones are lost.
    loud = (operator_arg_removal, operator_assignment, operator_dict_arguments)
    operators = [(kind, make) for kind, make in mutation_operators if make not in loud]
    source = (ROOT / file).read_text()
    wrapper = MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
    places = wrapper.resolve(PositionProvider)
    found: list[tuple[cst.CSTNode, cst.CSTNode, int]] = []

    def own(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        if isinstance(node, cst.Attribute) and node.attr.value in SWAPS:
            yield node.with_changes(attr=cst.Name(SWAPS[node.attr.value]))
        if isinstance(node, cst.SimpleString) and node.value[1:-1] in SWAPS:
            yield node.with_changes(value=f'"{SWAPS[node.value[1:-1]]}"')
        if isinstance(node, cst.Call):
            for k, argument in enumerate(node.args):
                if argument.keyword and argument.keyword.value not in ("strict", "device"):
                    yield node.with_changes(args=[*node.args[:k], *node.args[k + 1 :]])
        if isinstance(node, cst.If | cst.CompIf | cst.While):
            test = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
            yield node.with_changes(test=cst.UnaryOperation(cst.Not(), test))

    class Visitor(cst.CSTVisitor):
        start = 1

        def on_visit(self, node: cst.CSTNode) -> bool:
            match node:
                # Wordings are no results; a type and a name that is brought in are no values.
                case cst.Raise() | cst.Annotation() | cst.Import() | cst.ImportFrom():
                    return False
                # Of `zip` an assertion; and there is but one device here.
                case cst.Arg(keyword=cst.Name(value="strict" | "device")):
                    return False
                case cst.Expr(value=cst.SimpleString() | cst.ConcatenatedString()):
                    return False
                case cst.Call(func=cst.Attribute(value=cst.Name(value="logger" | "warnings"))):
                    return False
                case cst.Assign(value=cst.Subscript(value=cst.Name(value="dict"))):
                    return False
            if isinstance(node, cst.BaseCompoundStatement | cst.SimpleStatementLine):
                self.start = places[node].start.line
            for kind, operator in operators:
                if isinstance(node, kind):
                    changed = list(operator(node))
                    if isinstance(node, cst.SimpleString):
                        changed = changed[:1]  # the other two are its spelling
                    found.extend((node, new, self.start) for new in changed)
            found.extend((node, new, self.start) for new in own(node))
            return not isinstance(node, cst.Assert) or not self._of_assert(node)

        def _of_assert(self, node: cst.Assert) -> bool:
            node.test.visit(self)  # and not the message
            return True

    wrapper.module.visit(Visitor())
    seen = {source}
    for node, new, start in found:
        code = wrapper.module.deep_replace(node, new).code
        if code in seen:
            continue
        seen.add(code)
        try:
            compile(code, file, "exec")
        except SyntaxError:
            continue
        old, changed = _difference(source, code)
        stop = places[node].end.line if not isinstance(node, cst.If | cst.While) else start
        yield Mutant(file, old, changed, range(start, stop + 1), code)


def _difference(before: str, after: str) -> tuple[str, str]:
    a, b = before.splitlines(), after.splitlines()
    shorter = min(len(a), len(b))
    first = next((k for k in range(shorter) if a[k] != b[k]), shorter)
    last = next((k for k in range(shorter - first) if a[~k] != b[~k]), shorter - first)
    return tuple("\n".join(x.strip() for x in xs[first : len(xs) - last]) for xs in (a, b))


# --- processes -----------------------------------------------------------------------------------


def fork(work: Callable[[], int], log: Path) -> int:
    """The process that does it, in a group of its own."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        with log.open("w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        code = work()
    finally:
        os._exit(code)


def run_pytest(arguments: list[str], folder: Path, plugins: tuple = ()) -> int:
    import pytest

    options = ["-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", f"--basetemp={folder}"]
    return int(pytest.main([*options, *arguments], plugins=plugins))


class Covering:
    """A pytest plugin: how long tests take, and which of them reach which line."""

    def __init__(self) -> None:
        import coverage

        self.coverage = coverage.Coverage(
            data_file=None, include=[f"{ROOT}/arcnn/*"], config_file=False
        )
        self.seconds: dict[str, float] = {}
        self.coverage.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report) -> None:  # noqa: ANN001
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0) + report.duration

    def write(self, path: Path, files: list[str]) -> None:
        self.coverage.stop()
        data = self.coverage.get_data()
        lines = {file: data.contexts_by_lineno(str(ROOT / file)) for file in files}
        modules = [
            name
            for name, module in sys.modules.items()
            if not str(getattr(module, "__file__", "")).startswith(str(ROOT))
        ]
        path.write_text(json.dumps({"seconds": self.seconds, "lines": lines, "modules": modules}))


def install(file: str, code: str) -> None:
    """Whoever imports the file gets this code."""
    name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    class Loader(importlib.machinery.SourceFileLoader):
        def get_code(self, fullname: str):  # noqa: ANN202
            return compile(code, self.path, "exec", dont_inherit=True)

    class Finder:
        @staticmethod
        def find_spec(fullname: str, path: object = None, target: object = None):  # noqa: ANN205
            if fullname == name:
                loader = Loader(name, str(ROOT / file))
                return importlib.util.spec_from_file_location(name, ROOT / file, loader=loader)
            return None

    sys.meta_path.insert(0, Finder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", help="some of those in pyproject.toml")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=2.0, help="of tests, at first")
    parser.add_argument("--only", default="", help="mutants whose line contains this")
    parser.add_argument("--again", type=Path, help="only those that this earlier output shows")
    parser.add_argument("--tests", nargs="*", help="these, and not those in pyproject.toml")
    arguments = parser.parse_args()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutants"]
    files = arguments.files or list(settings)
    if arguments.tests:
        settings = dict.fromkeys(files, arguments.tests)
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    os.environ["PYTHONPATH"] = str(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    os.chdir(ROOT)
    temporary = Path(tempfile.mkdtemp(prefix="mutants-"))
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(temporary / "hypothesis")
    try:
        tests = sorted({f"tests/{test}.py" for file in files for test in settings[file]})
        reach = _reach(tests, files, temporary)
        return _try_all(files, settings, reach, arguments, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _reach(tests: list[str], files: list[str], temporary: Path) -> dict:
    def work() -> int:
        covering = Covering()
        code = run_pytest(tests, temporary / "tests", (covering,))
        covering.write(temporary / "reach.json", files)
        return code

    begun = time.monotonic()
    _, status = os.waitpid(fork(work, temporary / "log"), 0)
    if status:
        print((temporary / "log").read_text()[-3000:])
        raise SystemExit("The tests fail without any mutant.")
    reach = json.loads((temporary / "reach.json").read_text())
    for module in reach["modules"]:  # of others; every fork finds them there
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()
    print(f"{len(reach['seconds'])} tests in {time.monotonic() - begun:.0f} s", flush=True)
    return reach


def _chosen(mutant: Mutant, tests: list[str], reach: dict, seconds: float) -> list[str]:
    """The tests that reach the mutant's lines, the quickest first, within so many seconds."""
    lines, of = reach["lines"][mutant.file], reach["seconds"]
    contexts = {c for line in mutant.lines for c in lines.get(str(line), [])}
    if "" in contexts:  # what is done on import reaches all of them
        contexts = set(of)
    chosen, total = [], 0.0
    for test in sorted(contexts - {""}, key=lambda t: of.get(t, 0)):
        if test.split("::")[0].removeprefix("tests/").removesuffix(".py") in tests:
            total += of.get(test, 0)
            if total > seconds and chosen:
                break
            chosen.append(test)
    return chosen


def _try_all(files: list, settings: dict, reach: dict, arguments, temporary: Path) -> int:  # noqa: ANN001
    explained = {(k.file, *change) for k in known(KNOWN.read_text()) for change in k.changes}
    everything = [m for file in files for m in mutants(file) if arguments.only in m.old]
    if arguments.again:
        shown = {
            (k.file, *change) for k in known(arguments.again.read_text()) for change in k.changes
        }
        everything = [m for m in everything if m[:3] in shown]
    met = {m[:3] for m in everything} & explained
    waiting = [m for m in everything if m[:3] not in explained]
    print(f"{len(waiting)} mutants, and {len(met)} that are explained", flush=True)
    begun, left, unreached = time.monotonic(), waiting, []
    for seconds in (arguments.seconds, math.inf):  # most fall at once, the rest is tried by all
        with_tests = []
        for mutant in left:
            tests = _chosen(mutant, settings[mutant.file], reach, seconds)
            (with_tests if tests else unreached).append((mutant, tests))
        left = []
        for mutant in _surviving(with_tests, arguments.jobs, temporary):
            left.append(mutant)
            print(f"\n{mutant.file}\n{_shown(mutant)}", flush=True)
        print(f"\n{len(left)} of {len(with_tests)} are left after this round", flush=True)
    for mutant, _ in unreached:
        print(f"\n{mutant.file}\n{_shown(mutant)}")
    for entry in sorted(e for e in explained - met if e[0] in files and arguments.only in e[1]):
        print(f"\n{KNOWN.name} explains what is no mutant any more: {entry}")
    print(
        f"\n{len(everything)} mutants: {len(waiting) - len(left) - len(unreached)} killed, "
        f"{len(met)} explained, {len(left)} survived, {len(unreached)} reached by no test; "
        f"{(time.monotonic() - begun) / 60:.0f} minutes"
    )
    return 1 if left or unreached else 0


def _surviving(waiting: list, jobs: int, temporary: Path) -> Iterator[Mutant]:
    running: dict[int, tuple[Mutant, float, Path]] = {}
    queue = iter(waiting)
    while True:
        while len(running) < jobs and (following := next(queue, None)):
            folder = Path(tempfile.mkdtemp(dir=temporary))
            running[fork(_work(*following, folder), folder / "log")] = (
                following[0],
                time.monotonic(),
                folder,
            )
        if not running:
            return
        time.sleep(0.01)
        for pid, (mutant, since, folder) in list(running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended and time.monotonic() - since > PATIENCE:
                os.killpg(pid, signal.SIGKILL)
                ended, status = os.waitpid(pid, 0)
            if ended:
                del running[pid]
                shutil.rmtree(folder, ignore_errors=True)
                if status == 0:
                    yield mutant


def _work(mutant: Mutant, tests: list[str], folder: Path) -> Callable[[], int]:
    def work() -> int:
        install(mutant.file, mutant.code)
        return run_pytest(["-x", "--no-header", "--tb=no", *tests], folder / "tests")

    return work


def _shown(mutant: Mutant) -> str:
    marked = (("- ", mutant.old), ("+ ", mutant.new))
    return "\n".join(sign + line for sign, text in marked for line in text.splitlines())


if __name__ == "__main__":
    raise SystemExit(main())
