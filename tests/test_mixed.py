"""`Mixture`: columns of different families, text among them, in tables of any kind."""

from __future__ import annotations

import warnings

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import zarr
from agreement import assert_same_bits
from cases import chunk_of
from click.testing import CliRunner
from scipy import stats
from sklearn.exceptions import ConvergenceWarning

import dem
from dem.cli.main import dem as command
from dem.errors import DataError, OptionError

pytestmark = pytest.mark.filterwarnings("ignore:X does not have valid feature names")
FAMILIES = {"height,weight": "gaussian", "smoker": "bernoulli", "visits": "poisson", "region": "categorical"}
REGIONS = np.array(["north", "south", "east", "west"])
SHARES = np.array([[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.1, 0.1, 0.2, 0.6]])


def survey(n_rows: int = 600, seed: int = 0) -> pd.DataFrame:
    """A survey of three kinds of people, with a column that no model uses."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(3, size=n_rows, p=[0.5, 0.3, 0.2])
    sizes = np.array([[170.0, 60.0], [150.0, 90.0], [185.0, 110.0]])[kinds]
    regions = np.sum(rng.random((n_rows, 1)) > np.cumsum(SHARES, axis=1)[kinds, :-1], axis=1)
    return pd.DataFrame(
        {
            "note": "-",
            "height": sizes[:, 0] + 5.0 * rng.normal(size=n_rows),
            "weight": sizes[:, 1] + 8.0 * rng.normal(size=n_rows),
            "smoker": np.where(rng.random(n_rows) < np.array([0.9, 0.1, 0.5])[kinds], "yes", "no"),
            "visits": rng.poisson(np.array([1.0, 8.0, 15.0])[kinds]),
            "region": REGIONS[regions],
        }
    )


def numbers(frame: pd.DataFrame) -> np.ndarray:
    """The columns in use, with the numbers of categories in the order of their names."""
    regions = np.searchsorted(np.sort(REGIONS), frame["region"])
    return np.column_stack([frame[["height", "weight"]], frame["smoker"] == "yes", frame["visits"], regions])


def mixture(**options):
    return dem.Mixture(FAMILIES, **{"n_components": 3, "random_state": 0, **options})


@pytest.fixture(scope="module")
def fitted():
    return mixture().fit(survey())


def densities(rows: np.ndarray, model) -> np.ndarray:
    """Return log p(what is observed | class) by scipy, (n, n_components)."""
    found = np.zeros((len(rows), 3))
    (sizes, coins, visits, regions) = model.parameters_.values()
    matrices = [np.diag(one) if one.ndim == 1 else one for one in sizes["covariances"]]
    for i, row in enumerate(rows):
        seen = ~np.isnan(row)
        for k in range(3):
            own = np.flatnonzero(seen[:2])
            if len(own):
                covariance = matrices[k][np.ix_(own, own)]
                found[i, k] += stats.multivariate_normal.logpdf(row[own], sizes["means"][k][own], covariance)
            if seen[2]:
                found[i, k] += stats.bernoulli.logpmf(row[2], coins["probabilities"][k, 0])
            if seen[3]:
                found[i, k] += stats.poisson.logpmf(row[3], visits["rates"][k, 0])
            if seen[4]:
                found[i, k] += np.log(regions["probabilities"][k, 0, int(row[4])])
    return found


@pytest.mark.parametrize("covariance_type", ["full", pytest.param("diag", marks=pytest.mark.slow)])
def test_densities_are_products_of_those_of_the_parts(covariance_type):
    rng = np.random.default_rng(1)
    rows = numbers(survey(80, seed=3))
    gaps = np.where(rng.random(rows.shape) < 0.3, np.nan, rows)
    sizes = ("gaussian", {"covariance_type": covariance_type})
    families = {**FAMILIES, "height,weight": sizes}
    model = dem.Mixture(families, n_components=3, random_state=0, missing="marginalise").fit(survey())
    for table in (rows, gaps):
        joint = densities(table, model) + np.log(model.weights_)
        total = np.logaddexp.reduce(joint, axis=1)
        np.testing.assert_allclose(model.score_samples(table), total, rtol=1e-10)
        np.testing.assert_allclose(model.predict_proba(table), np.exp(joint - total[:, np.newaxis]), atol=1e-10)


def test_a_step_is_that_of_plain_numpy(fitted):
    rows = numbers(survey(200, seed=5))
    shares = fitted.predict_proba(rows)
    family, parameters = fitted._model()
    after = family.to_user(family.m_step(family.e_step(parameters, chunk_of(rows)), parameters))
    counts = shares.sum(axis=0)[:, np.newaxis]
    np.testing.assert_allclose(after["weights"], counts[:, 0] / len(rows), rtol=1e-10)
    means = shares.T @ rows / counts
    np.testing.assert_allclose(after["means"][:, :4], means[:, :4], rtol=1e-10)
    np.testing.assert_allclose(after["part1_probabilities"], means[:, 2:3], rtol=1e-10)
    np.testing.assert_allclose(after["part2_rates"], means[:, 3:4], rtol=1e-10)
    found = shares.T @ (rows[:, 4:] == np.arange(4)) / counts
    np.testing.assert_allclose(after["part3_probabilities"][:, 0], found, atol=1e-10)
    away = rows[:, np.newaxis, :2] - means[:, :2]
    covariances = np.einsum("nk,nki,nkj->kij", shares, away, away) / counts[:, np.newaxis] + 1e-6 * np.eye(2)
    np.testing.assert_allclose(after["part0_covariances"], covariances, rtol=1e-9)


def test_text_is_what_its_numbers_are(fitted):
    by_number = {"0,1": "gaussian", 2: "bernoulli", (3,): "poisson", "4": "categorical"}
    plain = dem.Mixture(by_number, n_components=3, random_state=0).fit(numbers(survey()))
    assert_same_bits(fitted, plain, ("weights_", "means_", "lower_bounds_"))
    assert fitted.categories_ == {"smoker": ["no", "yes"], "region": ["east", "north", "south", "west"]}
    np.testing.assert_array_equal(fitted.predict(survey()), plain.predict(numbers(survey())))
    ordered = survey().astype({"region": pd.CategoricalDtype(list(REGIONS), ordered=True)})
    assert mixture(tol=10).fit(ordered).categories_["region"] == list(REGIONS)
    truth = survey().assign(smoker=survey()["smoker"] == "yes")
    assert mixture(tol=10).fit(truth).categories_["smoker"] == [False, True]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dask", "parquet", "dataset", "lazy dataset", "zarr"])
def test_every_kind_of_table_has_text(fitted, kind, tmp_path):
    data = table_of(kind, survey(), tmp_path)
    model = mixture().fit(data)
    assert_same_bits(model, fitted, ("weights_", "means_"))
    assert model.categories_ == fitted.categories_
    np.testing.assert_array_equal(np.asarray(model.predict(data)), fitted.predict(survey()))
    strange = survey()
    strange.loc[77, "region"] = "nowhere"
    with pytest.raises(DataError, match=r"'region'.*'nowhere' in row 77.* 'east', 'north'"):
        np.asarray(model.predict(table_of(kind, strange, tmp_path / "other")))


def table_of(kind, frame, folder):
    folder.mkdir(exist_ok=True)
    if kind == "dask":
        import dask.dataframe

        return dask.dataframe.from_pandas(frame, npartitions=1)
    if kind == "parquet":
        frame.to_parquet(folder / "survey.parquet", row_group_size=50)
        return str(folder / "survey.parquet")
    import xarray

    data = xarray.Dataset({name: ("person", np.asarray(frame[name].tolist())) for name in frame.columns})
    if kind == "dataset":
        return data
    if kind == "lazy dataset":
        return data.chunk(person=100)
    group = zarr.create_group(str(folder / "survey.zarr"))
    for name in ("height", "weight", "smoker", "visits", "region"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the format of text, which has no specification yet
            group.create_array(name, data=data[name].values, chunks=(100,))
    return str(folder / "survey.zarr")


@pytest.mark.parametrize(
    ("families", "error", "words"),
    [
        (None, OptionError, "families must be a dict"),
        ({"height": "gausian"}, OptionError, "no family 'gausian' .of 'height'.; there are gaussian, "),
        ({"height": ("gaussian", {"colour": 1})}, OptionError, "gaussian .of 'height'. has no option 'colour'"),
        ({"height": dem.GaussianMixture(tol=1.0)}, OptionError, "tol of 'height' is not for a part"),
        ({"height": dem.KMeans()}, OptionError, "what 'height' has must be the name of a family"),
        ({"height": ("gaussian", {"reg_covar": -1.0})}, OptionError, "'height': .*reg_covar"),
        ({"height": "gaussian", "height,weight": "gaussian"}, OptionError, "'height' is in two parts"),
        ({"height": "gaussian", 1: "gaussian"}, OptionError, "by their names or by their numbers, not by both"),
        ({"": "gaussian"}, OptionError, "names no columns"),
        ({"height,nothing": "gaussian"}, DataError, "has no column 'nothing'; it has note, height, weight"),
        (
            {"height": "gaussian", "region": "poisson"},
            DataError,
            "'region' holds text.*poisson takes numbers",
        ),
        ({"region": "bernoulli"}, DataError, "'region' has 4 values, more than the two of bernoulli"),
        (
            {"weight,height": "gaussian", "visits": "bernoulli"},
            DataError,
            "'visits'.; values of bernoulli are whole numbers",
        ),
    ],
)
def test_what_does_not_fit_is_named(families, error, words):
    with pytest.raises(error, match=words):
        dem.Mixture(families, n_components=2).fit(survey(50))


@pytest.mark.parametrize(("number", "words"), [(2, "column 2 belongs to no part"), (9, "there is no column 9")])
def test_columns_without_names_all_have_a_part(number, words):
    families = {
        "0": "gaussian",
        1: "gaussian",
        "3,4": "poisson",
        **({9: "poisson", 2: "poisson"} if number > 5 else {}),
    }
    with pytest.raises(OptionError, match=f"the data has 5 columns, and {words}"):
        dem.Mixture(families, n_components=2).fit(numbers(survey(50)))


def test_values_that_the_fit_has_not_seen(fitted):
    strange = survey(50)
    strange.loc[33, "region"] = "nowhere"
    with pytest.raises(DataError, match=r"column 'region' of pandas DataFrame holds 'nowhere' in row 33.*knows 'east'"):
        fitted.predict(strange)
    rows = numbers(survey(50))
    rows[20, 4] = 4
    with pytest.raises(DataError, match=r"row 20, column 4.*values of categorical are numbers"):
        fitted.score(rows)


def test_other_models_say_what_to_do_with_text(tmp_path):
    frame = survey(50)[["height", "region"]]
    frame.to_parquet(path := str(tmp_path / "survey.parquet"))
    for data in (frame, frame.astype({"region": "category"}), dd.from_pandas(frame, npartitions=2), path):
        with pytest.raises(DataError, match=r"column 'region' .* fit it as categories with dem.Mixture \(--family mix"):
            dem.CategoricalMixture(2).fit(data)


def test_gaps_of_text_are_gaps():
    frame, rng = survey(), np.random.default_rng(2)
    frame.loc[rng.random(len(frame)) < 0.2, "region"] = None
    with pytest.raises(DataError, match=r"NaN.*column 4 .'region'"):
        mixture().fit(frame)
    model = mixture(missing="marginalise").fit(frame)
    assert None not in model.categories_["region"]
    filled = model.impute(frame)
    known = frame["region"].notna()
    assert list(filled.columns) == ["height", "weight", "smoker", "visits", "region"]
    pd.testing.assert_frame_equal(filled[known], frame.loc[known, list(filled.columns)], check_dtype=False)
    best = model.predict_proba(frame) @ model.parameters_["region"]["probabilities"][:, 0]
    expected = np.array(model.categories_["region"])[best.argmax(axis=1)]
    assert (filled["region"] == np.where(known, frame["region"], expected)).all()


def test_parts_that_know_no_gaps_are_named():
    with pytest.raises(OptionError, match=r"missing='marginalise' is not for student_t .'height,weight'."):
        dem.Mixture({"height,weight": "student_t"}, missing="marginalise").fit(survey(50))


def test_class_table(fitted):
    table = pd.DataFrame(fitted.class_table()).set_index(["column", "category"])
    np.testing.assert_array_equal(table.loc["", "class size"], fitted.weights_)
    np.testing.assert_allclose(table.loc["region"].sum(), 1.0)
    np.testing.assert_allclose(table.loc[("smoker", "yes")], fitted.parameters_["smoker"]["probabilities"][:, 0])
    np.testing.assert_array_equal(table.loc[("weight", "mean")], fitted.means_[:, 1])
    np.testing.assert_allclose(
        table.loc[("height", "standard deviation")] ** 2, fitted.parameters_["height,weight"]["covariances"][:, 0, 0]
    )
    assert list(table.loc["region"].index) == fitted.categories_["region"]


def test_rows_are_drawn_as_tables(fitted, tmp_path):
    rows, labels = fitted.sample(2000)
    assert list(rows.columns) == list(fitted.feature_names_in_)
    assert set(rows["region"]) == set(REGIONS)
    assert rows["visits"].dtype == np.int64
    seen = pd.crosstab(labels, rows["region"], normalize="index").to_numpy()
    np.testing.assert_allclose(seen, fitted.parameters_["region"]["probabilities"][:, 0], atol=0.1)
    assert (fitted.predict(rows) == labels).mean() > 0.95
    fitted.sample_to(10, str(tmp_path / "drawn.zarr"), random_state=0)
    drawn = zarr.open_group(str(tmp_path / "drawn.zarr"), mode="r")
    assert drawn.attrs["categories"] == fitted.categories_
    densities = fitted.score_samples(str(tmp_path / "drawn.zarr"), variable="rows")
    np.testing.assert_array_equal(np.asarray(densities), fitted.score_samples(np.asarray(drawn["rows"])))


def test_model_files_keep_options_and_categories(tmp_path):
    families = {
        ("height", "weight"): ("gaussian", {"covariance_type": "diag", "reg_covar": 1e-3}),
        "visits": dem.BinomialMixture(n_trials=60),
        "region,smoker": "categorical",
    }
    model = dem.Mixture(families, n_components=2, random_state=0, scale=True).fit(survey())
    model.save(str(tmp_path / "model.zarr"))
    back = dem.load(str(tmp_path / "model.zarr"))
    assert back.families["height,weight"] == ("gaussian", {"covariance_type": "diag", "reg_covar": 1e-3})
    assert back.families["visits"] == ("binomial", {"n_trials": 60})
    assert back.categories_ == model.categories_
    assert_same_bits(back, model, model_attributes(model))
    np.testing.assert_array_equal(back.predict_proba(survey()), model.predict_proba(survey()))
    assert back.sample(3)[0].equals(model.sample(3)[0])


def model_attributes(model):
    return [f"{name}_" for name in model._parameter_names]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_no_column_dominates_a_start():
    rng = np.random.default_rng(4)
    kinds = rng.integers(2, size=400)
    rows = np.column_stack([3.0 * kinds + rng.normal(size=400), rng.normal(size=400), rng.integers(3, size=400)])
    families = {0: "gaussian", 1: "gaussian", 2: "categorical"}
    wide = rows * [1.0, 1e6, 1.0]
    both = [dem.Mixture(families, n_components=2, random_state=0, max_iter=1).fit(data) for data in (rows, wide)]
    np.testing.assert_array_equal(both[0].predict(rows), both[1].predict(wide))
    np.testing.assert_allclose(both[0].weights_, both[1].weights_, rtol=1e-6)


def test_the_shell_takes_columns(tmp_path):
    path, model = str(tmp_path / "survey.parquet"), str(tmp_path / "model.zarr")
    survey().to_parquet(path)
    columns = [f"--column={names}={family}" for names, family in FAMILIES.items() if names != "height,weight"]
    columns.append("--column=height,weight=gaussian:covariance_type=diag:reg_covar=1e-4")
    given = [
        "fit",
        path,
        "--family",
        "mixture",
        *columns,
        "--components",
        "3",
        "--seed",
        "0",
        "--out",
        model,
        "--quiet",
    ]
    shown = CliRunner().invoke(command, given)
    assert shown.exit_code == 0, shown.output
    fitted = dem.load(model)
    assert fitted.families["height,weight"] == ("gaussian", {"covariance_type": "diag", "reg_covar": 1e-4})
    described = CliRunner().invoke(command, ["info", model]).output
    assert "'region': 'categorical'" in described
    assert any(f"{name} 0." in described for name in REGIONS)
    other = CliRunner().invoke(command, ["fit", path, "--family", "mixture", *columns, "-k", "3", "--noise"])
    assert "--noise is for --family gaussian" in other.output
    for bad in ("height", "=gaussian", "height=gaussian:covariance_type"):
        wrong = CliRunner().invoke(command, ["fit", path, "--family", "mixture", f"--column={bad}", "-k", "2"])
        assert wrong.exit_code == 2
        assert "NAMES=FAMILY" in wrong.output


def test_streams_know_their_categories():
    frame = survey()
    model = mixture().partial_fit(frame[:300])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.partial_fit(frame[300:])
    assert model.n_samples_seen_ == 600
    with pytest.raises(DataError, match=r"'nowhere' in row 0"):
        model.partial_fit(frame[:5].assign(region="nowhere"))


@pytest.mark.slow
def test_grids_are_imputed_with_numbers():
    import xarray

    frame = survey(300)
    frame.loc[5, "region"] = None
    model = mixture(missing="marginalise").fit(frame)
    data = xarray.Dataset({name: ("person", frame[name].to_numpy(dtype=object)) for name in ("smoker", "region")})
    data = data.assign({name: ("person", frame[name].to_numpy()) for name in ("height", "weight", "visits")})
    found = model.impute(data)
    assert found["region"][5] == model.categories_["region"].index(model.impute(frame)["region"][5])
    np.testing.assert_array_equal(found["height"], frame["height"])


def test_adapting_moves_every_part():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"height": rng.normal(170.0, 5.0, 90), "visits": rng.poisson(3.0, 90)})
    model = dem.Mixture({"height": "gaussian", "visits": "poisson"}, n_components=1).fit(table)
    new = pd.DataFrame({"height": [180.0, 182.0], "visits": [9, 11]})
    share = 2 / (2 + 16)
    expected = share * new.mean().to_numpy() + (1 - share) * table.mean().to_numpy()
    for ours in (model.adapt(new), model.adapt(new, groups=np.zeros(2, dtype=int))[0]):
        np.testing.assert_allclose(ours.means_[0], expected, rtol=1e-12)
        np.testing.assert_allclose([ours.part0_means_[0, 0], ours.part1_rates_[0, 0]], expected, rtol=1e-12)
        np.testing.assert_array_equal(ours.part0_covariances_, model.part0_covariances_)
        log_density = stats.norm.logpdf(new["height"], expected[0], np.sqrt(model.part0_covariances_.ravel()))
        log_density += stats.poisson.logpmf(new["visits"], expected[1])
        np.testing.assert_allclose(ours.score_samples(new), log_density, rtol=1e-12)
    heights = model.adapt(new, update="part0_means")
    np.testing.assert_allclose(heights.means_[0], [expected[0], table["visits"].mean()], rtol=1e-12)
