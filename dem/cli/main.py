"""The command `dem`: its subcommands, and the one place that turns failures into a line and an exit code."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from dem import __version__
from dem.cli.abandoned import silence, wants_traceback
from dem.cli.adapt import adapt
from dem.cli.demo import demo
from dem.cli.fit import fit
from dem.cli.impute import impute
from dem.cli.info import info
from dem.cli.options import in_the_shell
from dem.cli.outliers import outliers
from dem.cli.plan import plan
from dem.cli.predict import predict
from dem.cli.sample import sample
from dem.cli.score import score
from dem.cli.select import select
from dem.cli.session import Stopped, exit_code_of_signal, interrupts, is_terminal, left_reading, one_line, stopped_by
from dem.errors import DemError

FAILED = 1
WRONG_USE = 2
UNEXPECTED = 70  # EX_SOFTWARE: a defect of dem, not of its input


class RootCommand(click.Group):
    """A group whose failures are one line on stderr that starts with ``dem:``."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command and, unless `standalone_mode` is off, exit with its code."""
        given: Any = {"args": args, "prog_name": prog_name or "dem", "complete_var": complete_var, **extra}
        if not standalone_mode:
            return super().main(**given, standalone_mode=False)
        with interrupts():
            try:
                code = self._exit_code(given)
            except KeyboardInterrupt as error:  # while a failure was told
                code = _fail(f"stopped by {stopped_by()}", exit_code_of_signal(), error)
        if left_reading():  # Python would wait for it to end
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        if code:  # zarr would tell that a read of its own was stopped
            logging.getLogger("zarr.core.sync").setLevel(logging.CRITICAL)
        sys.exit(code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a subcommand; click would write an empty line before it ends on Ctrl-C."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            message = f"stopped by {stopped_by()}"
            raise Stopped(message) from None

    def _exit_code(self, given: Any) -> int:
        try:
            result: Any = super().main(**given, standalone_mode=False)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            return WRONG_USE
        except click.UsageError as error:
            where = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
            return _fail(f"{one_line(error.format_message()).rstrip('.')}{where}", WRONG_USE, error)
        except click.ClickException as error:
            return _fail(error.format_message(), FAILED, error)
        except DemError as error:
            return _fail(in_the_shell(str(error), self), FAILED, error)
        except Stopped as stopped:
            if is_terminal():
                click.echo(err=True)  # after the ^C that the terminal shows
            return _fail(str(stopped) or "stopped", exit_code_of_signal(), stopped)
        except (KeyboardInterrupt, click.Abort) as error:
            return _fail("stopped", exit_code_of_signal(), error)
        except BrokenPipeError:  # `dem info X | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            return _fail(f"{error.strerror or error}{where}", FAILED, error)
        except MemoryError as error:
            return _fail("out of memory; smaller chunks or fewer workers need less", FAILED, error)
        except Exception as error:  # noqa: BLE001 (never a traceback)
            advice = "" if wants_traceback() else "; DEM_TRACEBACK=1 shows where"
            return _fail(f"unexpected {type(error).__name__}: {one_line(str(error))}{advice}", UNEXPECTED, error)
        return result if isinstance(result, int) else 0


def _fail(message: str, code: int, error: BaseException) -> int:
    # Reads that were under way as the command was stopped end with `error`, unawaited.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    if wants_traceback():
        traceback.print_exception(error)
    click.echo(f"dem: {one_line(message)}", err=True)
    return code


@click.group(
    cls=RootCommand,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Example:
  dem fit measurements.zarr --components 16 --out model.zarr
  dem predict model.zarr measurements.zarr labels.zarr

DEM_TRACEBACK=1 in the environment shows where in the code an error arose.""",
)
@click.version_option(__version__, prog_name="dem", message="%(prog)s %(version)s", help="Show the version.")
def dem() -> None:
    """Fit mixture models by expectation-maximisation (EM) to data larger than memory.

    DATA is the path or URL of a zarr array, of a zarr group together with --variable NAME, or of a parquet
    file or folder.
    """


for command in (plan, fit, select, adapt, predict, score, outliers, impute, sample, info, demo):
    dem.add_command(command)


def main() -> NoReturn:
    """Run the command line of this process."""
    silence()
    dem.main()
    raise SystemExit(0)  # unreachable: `main` exits
