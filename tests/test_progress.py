"""`dem.Progress`: a bar in notebooks, a line elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime

import numpy as np
import pytest
from cases import gaussian_rows

import dem

NOTEBOOK = """
import json, warnings
import numpy as np
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
shell.display_pub = CapturingDisplayPublisher()
shell.kernel = object()  # what tells a notebook from IPython's terminal
import dem
X = np.random.default_rng(0).normal(size=(3000, 2))
warnings.simplefilter("ignore")
gm = dem.GaussianMixture(3, random_state=0, callbacks=[dem.Progress()])
for fit in (gm.fit, gm.fit, lambda X: dem.select(X, n_components=[1, 2], callbacks=gm.callbacks, random_state=0)):
    fit(X)
print(json.dumps([[one["data"]["text/html"], one["transient"], one["update"]] for one in shell.display_pub.outputs]))
"""


@pytest.mark.slow
def test_a_notebook_shows_one_bar_for_each_fit():
    result = subprocess.run([sys.executable, "-c", NOTEBOOK], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    shown = json.loads(result.stdout)
    bars = list(dict.fromkeys(where["display_id"] for _, where, _ in shown))
    assert len(bars) == 3
    for bar in bars:
        pages = [page for page, where, _ in shown if where["display_id"] == bar]
        updates = [update for _, where, update in shown if where["display_id"] == bar]
        assert updates == [False] + [True] * (len(pages) - 1)
        assert "preparing: drawing a sample" in pages[0]
        assert "value=" not in pages[0], "a bar that moves by itself"
        assert 'value="1.0000"' in pages[-1]
        assert "converged" in pages[-1]
        assert " left" not in pages[-1]
    shares = [page.split('value="')[1].split('"')[0] for page, _, _ in shown if 'value="' in page]
    assert all(0 <= float(share) <= 1 for share in shares)


def test_a_script_gets_a_line_for_each_pass(capsys):
    gm = dem.GaussianMixture(3, random_state=0, sample_rows=500, max_iter=50, callbacks=[dem.Progress()])
    gm.fit(gaussian_rows(2000))
    lines = untimed(capsys.readouterr().err)
    assert len(lines) == gm.n_iter_
    assert [line.split(",")[0] for line in lines] == [f"iteration {i + 1}" for i in range(gm.n_iter_)]
    assert f"log-likelihood per row {gm.lower_bound_:.6g}" in lines[-1]


def untimed(text):
    """Return lines without their time, which must be there."""
    pairs = [line.split(" ", 1) for line in text.splitlines()]
    assert all(datetime.fromisoformat(time).tzinfo for time, _ in pairs)
    return [line for _, line in pairs]


@pytest.mark.parametrize("algorithm", ["batch", "incremental"])
def test_of_several_starts_the_best_is_told(capsys, algorithm):
    gm = dem.GaussianMixture(
        3,
        n_init=4,
        init_params="random",
        tol=1e-5,
        max_iter=300,
        random_state=6,
        verbose=1,
        verbose_interval=1000,
        algorithm=algorithm,
        callbacks=[dem.Progress()],
    ).fit(gaussian_rows(600))
    shown = capsys.readouterr()
    *reads, last = untimed(shown.err)
    values = {record["model"]: record["log_likelihood"] for record in gm.history_}
    best = max(values, key=values.get)
    told = f"best: start {best + 1} of 4, log-likelihood per row {gm.lower_bound_:.6g} after {gm.n_iter_} iterations"
    assert last == told
    assert shown.out.splitlines()[-1] == f"{told} (model {best})"
    assert len(reads) == max(record["iteration"] for record in gm.history_)  # all starts share each pass
    assert f"log-likelihood per row {gm.lower_bound_:.6g}" in reads[-1]
    assert f"(best: start {best + 1} of 4)" in reads[-1]


def test_a_terminal_gets_one_line_that_changes(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    dem.KMeans(3, random_state=0, n_init=1, callbacks=[dem.Progress()]).fit(gaussian_rows(2000))
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert shown.endswith("\n")
    assert max(len(part.rstrip("\n")) for part in shown.split("\r")) <= 59
    assert "inertia per row" in shown


def test_an_estimator_with_a_bar_is_cloned_saved_and_printed(tmp_path, capsys):
    from sklearn.base import clone

    rows = np.random.default_rng(0).normal(size=(40, 4))
    gm = clone(dem.GaussianMixture(2, random_state=0, callbacks=[dem.Progress()])).fit(rows)
    assert "callbacks=[Progress()]" in repr(gm)
    gm.save(str(tmp_path / "model.zarr"))
    assert dem.load(str(tmp_path / "model.zarr")).callbacks is None
