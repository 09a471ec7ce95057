"""`make fuzz`: changed model files, checkpoints, zarr metadata and parquet, and arguments of the shell, for some time.

Each target runs in a process of its own, with Hypothesis, which changes metadata by their structure, and, where atheris
is installed, as long with it, which changes bytes and looks for branches of dem that it has not seen. What is found is
kept in build/fuzz, and ``python fuzz --again FILE`` runs it once more. Make a test of it and mend it.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import hashlib
import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KEPT = HERE.parent / "build" / "fuzz"
SHELL = "shell"
# No file of some kilobytes may take more than this; what does is a finding.
MEMORY = 8 * 2**30
HANG = 60


class Cases:
    """Runs cases of a target in a folder of its own, and keeps those that are found.

    A case is new contents of some files, by their names (None for one that goes), or arguments of the shell.
    """

    def __init__(self, name: str) -> None:
        import targets  # noqa: PLC0415

        self.name, self._targets = name, targets
        self.folder = Path(tempfile.mkdtemp(prefix="dem-fuzz-"))
        self.well = self.folder / "well"
        self.well.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (targets.write_shell if name == SHELL else targets.TARGETS[name].write)(self.well)
        self._changed = shutil.copytree(self.well, self.folder / "changed")
        self.n_cases, self.known = 0, set[str]()
        if name != SHELL:
            self.run({})  # what is well is taken, and all that reads it is imported by now

    def run(self, case: Any) -> None:
        """Run a case; what comes of it besides what may come is raised, once for each place in the code."""
        self.n_cases += 1
        self._note(case)
        faulthandler.dump_traceback_later(HANG, exit=True)
        try:
            if self.name == SHELL:
                self._run_shell(case)
            else:
                self._run_changed(case)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) or self._key(error) in self.known:
                return
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _run_shell(self, arguments: list[str]) -> None:
        shutil.rmtree(self._changed)
        shutil.copytree(self.well, self._changed)
        os.chdir(self._changed)
        self._targets.meet_shell(arguments)

    def _run_changed(self, case: dict[str, bytes | None]) -> None:
        for name, content in case.items():
            if content is None:
                (self._changed / name).unlink()
            else:
                (self._changed / name).write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._targets.meet(lambda: self._targets.TARGETS[self.name].read(self._changed))
        finally:
            for name in case:
                shutil.copyfile(self.well / name, self._changed / name)

    def _note(self, case: Any) -> None:
        """Write a case down, should it end this process."""
        text = (
            case
            if self.name == SHELL
            else {name: None if new is None else new.decode("latin-1") for name, new in case.items()}
        )
        (self.folder / "case.json").write_text(json.dumps({"target": self.name, "case": text}))

    def _key(self, error: BaseException) -> str:
        places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
        return f"{type(error).__name__} {str(error)[:60] * isinstance(error, AssertionError)} {places[-1:]}"

    def keep(self, error: BaseException) -> None:
        """Keep the last case, and tell of it."""
        self.known.add(self._key(error))
        place = KEPT / f"{self.name}-{hashlib.sha256(self._key(error).encode()).hexdigest()[:8]}.json".replace(" ", "-")
        KEPT.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.folder / "case.json", place)
        say(f"{self.name}: {type(error).__name__}: {str(error)[:300]}\n  again: python fuzz --again {place}")
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "hypothesis" not in frame.filename]
        sys.stdout.write("".join(traceback.format_list(frames[-6:])))


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def with_hypothesis(cases: Cases, seconds: float) -> None:
    """Run cases that Hypothesis makes, for some seconds; it shortens each that is found."""
    import changes  # noqa: PLC0415
    from hypothesis import HealthCheck, Phase, given, settings  # noqa: PLC0415

    until = time.monotonic() + seconds
    strategy = changes.arguments() if cases.name == SHELL else changes.changed_files(cases.well)

    def look(case: Any) -> None:  # Hypothesis takes no methods
        cases.run(case)

    wanted = settings(
        max_examples=100,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        print_blob=False,
        derandomize=False,
    )
    round_of: Callable[[], None] = wanted(given(strategy)(look))
    while time.monotonic() < until:
        try:
            round_of()
        except Exception as error:  # noqa: BLE001 - whatever dem has raised
            cases.keep(error)


def with_atheris(cases: Cases, seconds: float) -> None:
    """Run cases that libFuzzer makes, one file each, for some seconds, and end this process, as it would."""
    import atheris  # noqa: PLC0415

    files = sorted(str(file.relative_to(cases.well)) for file in cases.well.rglob("*") if file.is_file())
    corpus = cases.folder / "corpus"
    corpus.mkdir()
    for number, name in enumerate(files):
        (corpus / str(number)).write_bytes(bytes([number]) + (cases.well / name).read_bytes())

    until = time.monotonic() + seconds

    def look(content: bytes) -> None:
        if time.monotonic() > until:
            say(f"{cases.name}: atheris: {cases.n_cases} cases, {len(cases.known)} findings")
            shutil.rmtree(cases.folder, ignore_errors=True)
            os._exit(0)
        if content:
            try:
                cases.run({files[content[0] % len(files)]: content[1:]})
            except Exception as error:  # noqa: BLE001 - whatever dem has raised
                cases.keep(error)

    options = [
        f"-max_total_time={int(seconds)}",
        "-max_len=20000",
        "-print_final_stats=0",
        "-verbosity=0",
        "-rss_limit_mb=0",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], look)
    atheris.Fuzz()


ENGINES = {"hypothesis": with_hypothesis, "atheris": with_atheris}


def run_one(name: str, engine: str, seconds: float) -> None:
    """Fuzz one target in this process."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if engine == "atheris":
        import atheris  # noqa: PLC0415

        # It tells of each module.
        with (
            Path(os.devnull).open("w") as nowhere,
            contextlib.redirect_stderr(nowhere),
            atheris.instrument_imports(include=["dem"]),
        ):
            cases = Cases(name)
    else:
        cases = Cases(name)
    say(f"{name}: {engine}, for {seconds:g} s")
    try:
        ENGINES[engine](cases, seconds)
    finally:
        say(f"{name}: {engine}: {cases.n_cases} cases, {len(cases.known)} findings")
        shutil.rmtree(cases.folder, ignore_errors=True)


def again(path: Path) -> None:
    """Run a case that was kept once more, and let what comes of it through."""
    kept = json.loads(path.read_text())
    cases, case = Cases(kept["target"]), kept["case"]
    if kept["target"] != SHELL:
        case = {name: None if new is None else new.encode("latin-1") for name, new in case.items()}
    cases.run(case)


def main() -> int:
    """Fuzz all targets, or some; return 1 if anything is found."""
    import targets  # noqa: PLC0415

    names = [*targets.TARGETS, SHELL]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], prog="fuzz")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target and engine")
    parser.add_argument("--engine", choices=ENGINES, help="this one, here; for a single target")
    parser.add_argument("--again", type=Path, metavar="FILE", help="a case that was kept")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(names))
    given = parser.parse_args()
    if given.again:
        again(given.again)
        return 0
    if unknown := set(given.targets) - set(names):
        parser.error(f"there is no target {unknown.pop()!r}; there are {', '.join(names)}")
    if given.engine:
        run_one(given.targets[0], given.engine, given.seconds)
        return 0
    has_atheris = importlib.util.find_spec("atheris") is not None
    if not has_atheris:
        say('atheris is not installed (pip install "dask-em[fuzz]", Linux): Hypothesis alone')
    failed, began = [], time.time()
    for name in given.targets or names:
        # The shell's arguments are no bytes that a search by bytes would make anything of.
        for engine in ["hypothesis", "atheris"] if has_atheris and name != SHELL else ["hypothesis"]:
            command = [sys.executable, str(HERE), "--engine", engine, "--seconds", str(given.seconds), name]
            ended = subprocess.run(command, check=False)
            if ended.returncode:
                failed.append(f"{name} with {engine} (exit code {ended.returncode})")
    # libFuzzer ends its process without asking what was found.
    failed += [str(file) for file in KEPT.glob("*.json") if file.stat().st_mtime >= began]
    say(f"found: {', '.join(failed)}" if failed else "nothing found")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
